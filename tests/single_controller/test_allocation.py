"""Ray on the nodes of an allocation, with real `ray start` processes on the loopback interface."""

import os
import signal
import subprocess
import sys
import time

import pytest
from leftovers import processes_with
from ray._private import ray_constants

from verl.single_controller import allocation

MODULE = [sys.executable, "-m", "verl.single_controller.allocation"]


@pytest.fixture
def cluster(monkeypatch):
    """The environment of a job, and what starts a node of it."""
    mark = f"VERL_TEST_ALLOCATION={os.getpid()}-{time.time_ns()}"
    monkeypatch.setenv("RAY_HEAD_IP", "127.0.0.1")
    job = {
        "RAY_ADDRESS": allocation.free_address(),
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": "of-this-test-alone-0123456789abc",
        "SLURM_CPUS_ON_NODE": "3",
        ray_constants.ENABLE_RAY_CLUSTERS_ENV_VAR: "0",  # as inherited from a driver that stays on its machine
    }
    env = os.environ | job | dict([mark.split("=")])
    started = []

    def start(number, name):
        task = {"SLURM_PROCID": str(number), "SLURMD_NODENAME": name}
        started.append(subprocess.Popen([*MODULE, "join"], env=env | task, stdout=subprocess.DEVNULL))
        return started[-1]

    yield start, env, mark
    for process in started:
        process.terminate()
        process.wait(60)


def wait(env, *arguments):
    return subprocess.run([*MODULE, "wait", *arguments], env=env, capture_output=True, text=True)


@pytest.mark.slow
def test_nodes_join_one_that_is_missing_is_named_and_a_signal_ends_them(cluster):
    start, env, mark = cluster
    nodes = [start(0, "alpha"), start(1, "beta")]
    done = wait(env, "--seconds", "200", "alpha", "beta")
    assert done.returncode == 0, done.stderr
    done = wait(env, "--seconds", "3", "alpha", "beta", "gamma")
    assert done.returncode == 1
    assert f"error: 1 of 3 nodes did not join Ray at {env['RAY_ADDRESS']} within 3 s: gamma." in done.stderr
    for node in nodes:
        node.send_signal(signal.SIGTERM)
        node.wait(60)
    deadline = time.monotonic() + 60
    while left := processes_with(mark):
        assert time.monotonic() < deadline, left
        time.sleep(0.1)


def test_a_head_that_does_not_answer_is_told(cluster):
    _, env, _ = cluster
    done = wait(env, "--seconds", "1", "alpha")
    assert done.returncode == 1
    assert done.stderr.startswith(f"error: Ray's head does not answer at {env['RAY_ADDRESS']} after 1 s: ")
