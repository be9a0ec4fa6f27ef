"""Whole runs: the real command in a real process, on the embedded model and task."""

import subprocess
import sys

import pytest
from whole_runs import ROOT, Quickstart


@pytest.fixture(scope="session")
def home_api_data(tmp_path_factory):
    """Folder with the embedded task's parquet files."""
    folder = tmp_path_factory.mktemp("home_api")
    command = [sys.executable, "recipes/embedded/make_data.py", "--output_dir", str(folder)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    return folder


@pytest.fixture(scope="session")
def quickstart(home_api_data):
    return Quickstart(home_api_data)
