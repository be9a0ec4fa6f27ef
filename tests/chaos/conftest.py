"""Reference runs, made once for all scenarios that compare with them."""

import subprocess
import sys

import pytest
from e2e.whole_runs import ROOT
from harness import ChaosRun


@pytest.fixture(scope="session")
def data(tmp_path_factory):
    """Folder with the embedded task's parquet files."""
    folder = tmp_path_factory.mktemp("home_api")
    command = [sys.executable, "recipes/embedded/make_data.py", "--output_dir", str(folder)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    return folder


@pytest.fixture(scope="session")
def reference(data, tmp_path_factory):
    """The uninterrupted run of some settings."""
    made = {}

    def get(settings):
        if settings not in made:
            made[settings] = ChaosRun(data, tmp_path_factory.mktemp("reference"), settings)
            made[settings].finish()
        return made[settings]

    return get


@pytest.fixture
def make_run(data, tmp_path):
    return lambda settings: ChaosRun(data, tmp_path / "run", settings)
