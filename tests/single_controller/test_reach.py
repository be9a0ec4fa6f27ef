"""A private Ray leaves nothing behind that would keep the process, or what it starts, from joining other machines."""

import subprocess
import sys

PROGRAM = """
import os
from ray._private import ray_constants
from verl.single_controller.runtime import ray_session

def reach():
    return os.environ.get(ray_constants.ENABLE_RAY_CLUSTERS_ENV_VAR), ray_constants.ENABLE_RAY_CLUSTER

before = reach()
with ray_session():
    assert reach() == ("0", False), reach()
assert reach() == before == (None, True), (before, reach())
"""


def test_staying_on_loopback_ends_with_the_session(monkeypatch):
    monkeypatch.delenv("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", raising=False)
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
