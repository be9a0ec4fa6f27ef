"""A Slurm of two nodes on this machine, or a skip that says why there is none."""

import subprocess

import pytest
from slurm_jobs import SCRIPT, Slurm


@pytest.fixture(scope="session")
def slurm(tmp_path_factory):
    folder = tmp_path_factory.mktemp("slurm")
    started = subprocess.run(["bash", str(SCRIPT), "start", str(folder), "2"], capture_output=True, text=True)
    if started.returncode == 3:
        pytest.skip(started.stdout.strip())
    assert started.returncode == 0, started.stdout + started.stderr
    yield Slurm(folder)
    subprocess.run(["bash", str(SCRIPT), "stop", str(folder)], check=True)
