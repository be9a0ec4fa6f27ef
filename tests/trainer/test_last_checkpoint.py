"""A run that ends while a checkpoint is being written: the checkpoint is finished, and the run ends as it was to."""

import json
import logging
import signal
import threading
import time

import pytest
from sft_runs import Runs
from slow_writer import SlowWriter
from small_run import compose_run

import verl.trainer.checkpointing
import verl.trainer.sft_trainer
from verl.checkpoint import Commit, find_latest
from verl.config.actor import CheckpointConfig
from verl.config.root import TrainerConfig
from verl.dataset import DataIdentity, StatefulSampler
from verl.single_controller import LocalWorkerGroup, WorkerDied
from verl.trainer.checkpointing import RunCheckpoints
from verl.trainer.guards import RunStopped
from verl.trainer.interrupts import Terminated
from verl.trainer.listeners import BaseListener
from verl.trainer.roles import local_roles
from verl.trainer.train import train
from verl.trainer.watchdog import Stalled
from verl.weights import WeightSyncError


def checkpoints_of(workers, folder):
    sampler = StatefulSampler(6, 2, shuffle=True, seed=1)
    return RunCheckpoints(folder, TrainerConfig(), workers, sampler, CheckpointConfig(), DataIdentity())


def end_with(error, workers, folder):
    """A run that saves step 1 and meets `error` while that is being written. Returns what it ends with."""
    try:
        with checkpoints_of(workers, folder) as checkpoints:
            checkpoints.save(1)
            raise error
    except BaseException as end:
        return end
    finally:
        workers.shutdown()


ENDS = [
    RunStopped("3 updates were not finite"),
    WeightSyncError("engine 0 has other weights"),
    OSError(28, "No space left on device"),
    KeyboardInterrupt(),
    Terminated(signal.SIGTERM),
]


@pytest.mark.parametrize("error", ENDS, ids=lambda error: type(error).__name__)
def test_the_checkpoint_in_writing_is_finished_and_the_error_stays(tmp_path, caplog, error):
    assert end_with(error, LocalWorkerGroup("actor", SlowWriter), tmp_path) is error
    assert find_latest(tmp_path) == tmp_path / "global_step_1"
    assert caplog.messages[0].startswith(f"{type(error).__name__}")
    assert "checkpoint of step 1, which is still being written, is waited for (trainer.timeout.save=3600" in caplog.text


@pytest.fixture
def make_ranks(ray_runtime, tmp_path):
    from verl.single_controller.ray_group import RayWorkerGroup

    return lambda *args: RayWorkerGroup("actor", SlowWriter, args, num_ranks=1, log_dir=tmp_path / "logs")


def test_ranks_in_processes_of_their_own_are_awaited_before_they_are_ended(make_ranks, tmp_path):
    error = RunStopped("3 updates were not finite")
    assert end_with(error, make_ranks(), tmp_path) is error
    assert find_latest(tmp_path) == tmp_path / "global_step_1"


@pytest.mark.parametrize("how", ["before the end", "while it is awaited"])
def test_a_rank_that_died_is_not_awaited_and_the_loss_is_told(make_ranks, tmp_path, caplog, how):
    error = RunStopped("3 updates were not finite")
    ranks = make_ranks("dies")
    if how == "before the end":
        error = WorkerDied("actor", 0, "node7", "WorkerDied: process 12 died")
        save, ranks.save_checkpoint = ranks.save_checkpoint, lambda *args: (save(*args), ranks.abort(error))
    assert end_with(error, ranks, tmp_path) is error
    assert find_latest(tmp_path) is None
    assert f"step 1 is lost, unless {tmp_path}/global_step_1 is there later: WorkerDied: actor rank 0" in caplog.text


def test_a_checkpoint_that_cannot_be_finished_does_not_hide_the_error(tmp_path, caplog):
    error = RunStopped("3 updates were not finite")
    assert end_with(error, LocalWorkerGroup("actor", SlowWriter, ("fails",)), tmp_path) is error
    assert "OSError: the disk is gone" in caplog.text and caplog.messages[-1].endswith("There is no other.")


def test_nor_does_a_folder_that_can_no_longer_be_read(tmp_path, caplog, monkeypatch):
    def stale(folder):
        raise OSError(116, "Stale file handle")

    monkeypatch.setattr(verl.trainer.checkpointing, "newest_committed", stale)
    error = OSError(5, "Input/output error")
    assert end_with(error, LocalWorkerGroup("actor", SlowWriter, ("fails",)), tmp_path) is error
    assert "Stale file handle" in caplog.messages[-1]


def test_a_second_signal_ends_the_wait(tmp_path, caplog):
    first = Terminated(signal.SIGTERM)
    assert end_with(first, LocalWorkerGroup("actor", SlowWriter, ("is interrupted",)), tmp_path) is first
    assert "another signal ended the wait" in caplog.text


def test_a_signal_while_an_error_waits_is_an_interrupt(tmp_path):
    """With `max_restarts` the error might be followed by a new start, which is not what was asked for."""
    error = RunStopped("3 updates were not finite")
    end = end_with(error, LocalWorkerGroup("actor", SlowWriter, ("is interrupted",)), tmp_path)
    assert type(end) is KeyboardInterrupt and end.__context__ is error


def test_nothing_in_writing_is_nothing_to_wait_for(tmp_path, caplog):
    error = RunStopped("3 updates were not finite")
    with pytest.raises(RunStopped), checkpoints_of(LocalWorkerGroup("actor", SlowWriter, ("fails",)), tmp_path):
        raise error
    assert caplog.text == ""


@pytest.fixture
def held(monkeypatch):
    """Real ranks commit only when the run has said that it waits."""
    may_go = threading.Event()

    class Held(Commit):
        def run(self):
            assert may_go.wait(5), "the run did not wait"
            return super().run()

    class Listen(logging.Handler):
        def emit(self, record):
            if "still being written, is waited for" in record.getMessage():
                may_go.set()

    monkeypatch.setattr(verl.trainer.checkpointing, "Commit", Held)
    logger, handler = logging.getLogger(verl.trainer.checkpointing.__name__), Listen()
    logger.addHandler(handler)
    yield
    logger.removeHandler(handler)


def status(folder):
    return json.loads((folder / "status.json").read_text())


def test_fine_tuning_waits(held, tmp_path, monkeypatch):
    steps = iter([verl.trainer.sft_trainer.train_step])

    def one_step(*args):
        if step := next(steps, None):
            return step(*args)
        raise Terminated(signal.SIGTERM)

    monkeypatch.setattr(verl.trainer.sft_trainer, "train_step", one_step)
    with pytest.raises(Terminated):
        Runs(tmp_path)(3)
    assert find_latest(tmp_path / "run") == tmp_path / "run/global_step_1"
    assert (status(tmp_path / "run")["status"], status(tmp_path / "run")["reason"]) == ("interrupted", "SIGTERM")


def test_fine_tuning_that_stands_still_is_reported_and_ended(tmp_path, monkeypatch):
    step = verl.trainer.sft_trainer.train_step

    def endless(*args):
        begin = time.monotonic()
        while time.monotonic() - begin < 30:
            step(*args)  # raises when the ranks have been ended

    monkeypatch.setattr(verl.trainer.sft_trainer, "train_step", endless)
    with pytest.raises(Stalled, match=r"Nothing has moved .*trainer\.watchdog_seconds=0\.2\) in phase step"):
        Runs(tmp_path)(3, "trainer.watchdog_seconds=0.2")
    assert "The driver is in phase: step" in (tmp_path / "run/logs/stall-1.txt").read_text()


class Stop(BaseListener):
    """A guard that has seen enough at step 2."""

    def after(self, step):
        if step.number == 2:
            raise RunStopped("3 updates were not finite")


def test_reinforcement_waits(held, tmp_path):
    config = compose_run(tmp_path, "trainer.save_freq=1", "trainer.total_training_steps=3")
    with pytest.raises(RunStopped):
        train(config, lambda trainer, run: [Stop()], lambda config, num_steps, logs: local_roles(config, num_steps))
    assert find_latest(tmp_path / "run") == tmp_path / "run/global_step_1"
    assert status(tmp_path / "run")["status"] == "failed"
