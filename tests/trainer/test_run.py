"""What a run's folder says about how it ended, whatever ended it."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from verl.config import PPOConfig
from verl.config.root import TrainerConfig
from verl.single_controller import WorkerDied
from verl.trainer.interrupts import Terminated, stoppable
from verl.trainer.run import RunFolderBusy, recorded_run

DRIVER = """
import signal, sys, time
for number in (signal.SIGTERM, signal.SIGHUP):  # a test run in the background may have passed on that they are ignored
    signal.signal(number, signal.SIG_DFL)

from verl.config import PPOConfig
from verl.config.root import TrainerConfig
from verl.trainer.run import recorded_run

with recorded_run(PPOConfig(trainer=TrainerConfig(default_local_dir=sys.argv[1]))):
    print("running", flush=True)
    time.sleep(1000)
"""


def config(folder):
    return PPOConfig(trainer=TrainerConfig(default_local_dir=str(folder)))


def status(folder):
    return json.loads((folder / "status.json").read_text())


def start_driver(folder):
    process = subprocess.Popen([sys.executable, "-c", DRIVER, str(folder)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "running\n"
    return process


def test_a_good_end(tmp_path):
    with recorded_run(config(tmp_path)) as run:
        assert status(tmp_path)["status"] == "running"
        run.note_restart(1, "actor rank 0 died", 4)
        run.note_early_end(7, "solved")
    found = status(tmp_path)
    assert (found["status"], found["reason"], found["restarts"]) == ("finished", "", 1)
    assert found["last_restart"] == {"cause": "actor rank 0 died", "from_step": 4}
    assert found["ended_early"] == {"step": 7, "reason": "solved"}


@pytest.mark.parametrize(
    ("error", "outcome", "reason"),
    [
        (WorkerDied("actor", 1, "a", "Killed: 9", "log"), "failed", "actor rank 1 on a failed: Killed: 9"),
        (ValueError(), "failed", "ValueError"),
        (KeyboardInterrupt(), "interrupted", "SIGINT"),
        (Terminated(signal.SIGTERM), "interrupted", "SIGTERM"),
    ],
)
def test_bad_ends(tmp_path, error, outcome, reason):
    with pytest.raises(type(error)), recorded_run(config(tmp_path)) as run, run.tracking(5):
        raise error
    found = status(tmp_path)
    assert (found["status"], found["reason"]) == (outcome, reason)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_is_an_interrupt(tmp_path, number):
    driver = start_driver(tmp_path)
    driver.send_signal(number)
    driver.wait(60)
    assert (status(tmp_path)["status"], status(tmp_path)["reason"]) == ("interrupted", number.name)


def test_a_killed_run_is_still_running_and_the_next_one_says_so(tmp_path, caplog):
    driver = start_driver(tmp_path)
    driver.kill()
    driver.wait()
    assert status(tmp_path)["status"] == "running"
    with recorded_run(config(tmp_path)):
        pass
    assert f"process {driver.pid} on " in caplog.text
    assert "ended without saying so" in caplog.text
    assert status(tmp_path)["status"] == "finished"


def test_two_runs_do_not_write_into_one_folder(tmp_path):
    driver = start_driver(tmp_path)
    try:
        with (
            pytest.raises(RunFolderBusy, match=f"process {driver.pid} is still at work on"),
            recorded_run(config(tmp_path)),
        ):
            pass
        assert status(tmp_path)["pid"] == driver.pid
    finally:
        driver.kill()
        driver.wait()


def test_the_same_request_told_twice_does_not_disturb_closing():
    closed = False
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(Terminated) as caught, stoppable():
        try:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(100)
        finally:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(0.05)
            closed = True
    assert closed
    assert caught.value.exit_status == 143
    assert signal.getsignal(signal.SIGTERM) == before


def test_ignored_signals_stay_ignored(tmp_path):
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with stoppable():
            os.kill(os.getpid(), signal.SIGHUP)
    finally:
        signal.signal(signal.SIGHUP, before)
