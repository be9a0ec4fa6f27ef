"""Runs that lose training ranks, stall or are stopped: they go on from the newest checkpoint, or end and say why."""

import json
import os
import signal
import subprocess
import time

import pytest
from leftovers import wait_until_none_with, worker_pids
from safetensors.numpy import load_file
from whole_runs import ROOT, read_metrics

pytestmark = pytest.mark.slow

SETTINGS = (
    "actor_rollout_ref.rollout.name=hf",
    "trainer.total_training_steps=12",
    "trainer.save_freq=4",
    "trainer.test_freq=3",
    "trainer.deterministic=true",
    "actor_rollout_ref.actor.self_distillation.teacher_update_rate=0.05",
    "actor_rollout_ref.actor.checkpoint.save_contents=[model,optimizer,extra,hf_model]",
)
VARYING = ("timing_s/", "timing_per_token_ms/", "perf/", "training/restarts")


class Running:
    """A run in its own process, to be disturbed."""

    def __init__(self, quickstart, folder, *overrides):
        self.folder = folder
        self.mark = f"VERL_TEST_SURVIVAL={os.getpid()}-{time.time_ns()}"
        self.process = subprocess.Popen(
            quickstart.command(folder, *overrides),
            cwd=ROOT,
            env=os.environ | dict([self.mark.split("=")]),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )

    def wait_for(self, is_there):
        deadline = time.monotonic() + 400
        while not (found := is_there()):
            assert self.process.poll() is None, self.process.communicate()[1][-5000:]
            assert time.monotonic() < deadline
            time.sleep(0.02)
        return found

    def wait_for_line(self, step):
        self.wait_for(lambda: any(line["step"] >= step for line in read_metrics(self.folder)))

    def pid_of(self, worker):
        """Of the process that writes `logs/<worker>.log` now."""
        return self.wait_for(lambda: worker_pids(self.folder, worker))[0]

    def end(self):
        """Wait for the end: exit status and what was said on the way."""
        _, errors = self.process.communicate(timeout=400)
        return self.process.returncode, errors

    def status(self):
        return json.loads((self.folder / "status.json").read_text())

    def assert_nothing_is_left(self):
        """No process that was started by this run; Ray's agents end a little later."""
        wait_until_none_with(self.mark, 60.0)


@pytest.fixture
def start(quickstart):
    started = []

    def start_run(folder, *overrides):
        started.append(Running(quickstart, folder, *overrides))
        return started[-1]

    yield start_run
    for run in started:
        if run.process.poll() is None:
            run.process.kill()
            run.process.wait()


@pytest.fixture(scope="module")
def whole(quickstart, tmp_path_factory):
    """The run that nothing happens to."""
    folder = tmp_path_factory.mktemp("whole")
    quickstart.run(folder, *SETTINGS)
    return folder


def without_varying(folder):
    return [
        {name: value for name, value in line.items() if not name.startswith(VARYING)} for line in read_metrics(folder)
    ]


def assert_same_end(folder, whole):
    """Same metrics, same weights, bit for bit."""
    assert without_varying(folder) == without_varying(whole)
    weights, expected = (
        load_file(each / "global_step_12/actor/huggingface/model.safetensors") for each in (folder, whole)
    )
    assert weights.keys() == expected.keys()
    assert all((weights[name] == expected[name]).all() for name in expected)


def test_two_restarts_in_one_run_end_as_the_run_without(start, whole, tmp_path):
    run = start(tmp_path, *SETTINGS, "trainer.max_restarts=2")
    run.wait_for_line(0)
    os.kill(run.pid_of("actor-1"), signal.SIGKILL)  # most likely before the first checkpoint
    run.wait_for(lambda: run.status()["restarts"] == 1)
    first = run.status()["last_restart"]["from_step"]
    run.wait_for_line(5)
    os.kill(run.pid_of("actor-0"), signal.SIGKILL)
    code, errors = run.end()
    assert code == 0, errors
    assert f"Restart 1 goes on from step {first}. Cause: actor rank 1 on " in errors
    assert "Restart 2 goes on from step " in errors
    status = run.status()
    assert (status["status"], status["restarts"]) == ("finished", 2)
    assert status["last_restart"]["from_step"] in (0, 4, 8)  # what was whole when it was killed
    assert read_metrics(tmp_path)[-1]["training/restarts"] == 2
    assert_same_end(tmp_path, whole)
    run.assert_nothing_is_left()


def test_an_engine_that_is_stopped_for_good_is_reported_by_the_watchdog(start, tmp_path):
    run = start(tmp_path, *SETTINGS, "trainer.watchdog_seconds=20")
    run.wait_for_line(1)
    pid = run.pid_of("rollout-0")
    os.kill(pid, signal.SIGSTOP)
    code, errors = run.end()
    assert code == 1
    report = (tmp_path / "logs/stall-1.txt").read_text()
    assert "The driver is in phase: " in report
    assert f"rollout rank 0, process {pid} on " in report
    assert "Stalled: Nothing has moved for " in errors
    assert run.status()["reason"].startswith("Nothing has moved for ")
    run.assert_nothing_is_left()


def test_slurms_signal_is_a_clean_stop_and_the_run_goes_on_later(start, whole, tmp_path):
    run = start(tmp_path, *SETTINGS)
    run.wait_for_line(3)
    run.process.send_signal(signal.SIGTERM)
    code, errors = run.end()
    assert code == 143, errors
    assert errors.rstrip().endswith("interrupted")
    assert (run.status()["status"], run.status()["reason"]) == ("interrupted", "SIGTERM")
    run.assert_nothing_is_left()
    again = start(tmp_path, *SETTINGS)
    code, errors = again.end()
    assert code == 0, errors
    assert again.status()["status"] == "finished"
    assert_same_end(tmp_path, whole)
