"""Whole runs: the real command in a real process, on the embedded model and task."""

import pytest
from whole_runs import Quickstart


@pytest.fixture(scope="session")
def quickstart(home_api_data):
    return Quickstart(home_api_data)
