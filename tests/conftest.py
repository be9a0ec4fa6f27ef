"""Fixtures that more than one test folder uses; imports nothing heavy."""

import os
import shutil

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before anything loads torch; workers inherit it


@pytest.fixture(scope="session")
def ray_runtime():
    """One private Ray for the test session. A machine without GPU pretends to have two, to test who gets which."""
    from verl.single_controller.runtime import ray_session

    with ray_session({} if shutil.which("nvidia-smi") else {"num_gpus": 2}):
        yield
