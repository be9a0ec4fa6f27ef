"""Fixtures that more than one test folder uses; imports nothing heavy."""

import os
import shutil
import struct
import subprocess
import sys
from pathlib import Path

import hypothesis
import pytest

hypothesis.settings.register_profile("untimed", deadline=None)  # a busy machine is no failure
hypothesis.settings.load_profile("untimed")
os.environ.setdefault("OMP_NUM_THREADS", "1")  # before anything loads torch; workers inherit it

TESTS = Path(__file__).parent


@pytest.fixture(scope="session")
def ray_runtime():
    """One private Ray for the test session. A machine without GPU pretends to have two, to test who gets which."""
    from ray._private.ray_constants import ENABLE_RAY_CLUSTERS_ENV_VAR

    from verl.single_controller.runtime import ray_session

    with ray_session({} if shutil.which("nvidia-smi") else {"num_gpus": 2}):
        os.environ.pop(ENABLE_RAY_CLUSTERS_ENV_VAR, None)  # "stay on loopback" is not for clusters that a test starts
        yield


@pytest.fixture
def make_toys(ray_runtime, tmp_path, monkeypatch):
    """A function that makes groups of Toy workers, each in its process; they are shut down at the end."""
    monkeypatch.syspath_prepend(TESTS / "single_controller")
    from toy_worker import Toy

    from verl.single_controller.ray_group import RayWorkerGroup

    made = []

    def make(num_ranks=2, role="toy", deadlines=None, **options):
        options = {"log_dir": tmp_path} | options
        made.append(RayWorkerGroup(role, Toy, num_ranks=num_ranks, deadlines=deadlines or {}, **options))
        made[-1].ready()
        return made[-1]

    yield make
    for group in made:
        group.shutdown()


@pytest.fixture(scope="session")
def home_api_data(tmp_path_factory):
    """Folder with the embedded task's parquet files."""
    folder = tmp_path_factory.mktemp("home_api")
    command = [sys.executable, "recipes/embedded/make_data.py", "--output_dir", str(folder)]
    subprocess.run(command, cwd=TESTS.parent, check=True, capture_output=True)
    return folder


@pytest.fixture(scope="session")
def png_size():
    """`png_size(path)`: width and height of a PNG, which must hold more than a blank page."""

    def of(path):
        data = path.read_bytes()
        assert data[:8] == b"\x89PNG\r\n\x1a\n" and len(data) > 5000
        return struct.unpack(">II", data[16:24])

    return of
