"""When a run starts again, and from where; no processes."""

import pytest

from verl.config.root import TrainerConfig
from verl.dataset.parquet import SchemaError
from verl.models.packed_attention import CannotPack
from verl.single_controller import DeadlineExceeded, WorkerDied, WorkerError
from verl.single_controller.errors import Failure
from verl.trainer.record import RecordingError
from verl.trainer.restart import OwnCheckpoints, Restart, RestartPolicy, may_be_chance, with_restarts
from verl.trainer.watchdog import Stalled
from verl.types import InputError
from verl.weights import WeightSyncError
from verl.workers.reward import RewardErrors

DEATH = WorkerDied("actor", 1, "node7", "WorkerDied: process 12 died", "its log")


@pytest.mark.parametrize(
    "error",
    [
        DEATH,
        DeadlineExceeded("actor", 0, "node7", "DeadlineExceeded: update_policy gave no result"),
        Stalled("Nothing has moved"),
        WorkerError("actor", 0, "node7", "torch.OutOfMemoryError: CUDA out of memory"),
        WorkerError("actor", 0, "node7", "RuntimeError: [gloo] Connection closed by peer"),
        WorkerError("rollout", 1, "node7", "OSError: the fourth restart failed"),
    ],
)
def test_what_a_new_start_may_mend(error):
    assert may_be_chance(error)


@pytest.mark.parametrize(
    "error",
    [
        ValueError("data.train_files"),
        WeightSyncError("engine 0 has other weights"),
        RewardErrors("9 of 10 responses could not be scored"),
        RuntimeError("the run needs 2 nodes"),
        WorkerError("actor", 0, "node7", "ValueError: no such layer"),
        WorkerError("actor", 0, "node7", "verl.weights.verify.WeightSyncError: engine 0"),
        WorkerError("actor", 0, "node7", "KeyError: 'hidden'"),
        WorkerError("actor", 0, "node7", "ModuleNotFoundError: No module named 'peft'"),
        Failure.of(InputError("model.path=x: has no weights")).as_error("actor", 0, "node7"),
        Failure.of(SchemaError("data.train_files: a column")).as_error("reward", 0, "node7"),
        Failure.of(RecordingError("step_3.parquet: no such row")).as_error("actor", 0, "node7"),
        Failure.of(CannotPack("LlamaModel", "mixes tokens")).as_error("actor", 0, "node7"),
    ],
)
def test_what_would_come_again(error):
    assert not may_be_chance(error)


def test_the_budget_is_kept_and_the_cause_is_one_line():
    policy = RestartPolicy(2)
    first = policy.next(None, DEATH)
    assert first == Restart(1, "actor rank 1 on node7 failed: WorkerDied: process 12 died")
    second = policy.next(first, Stalled("Nothing has moved\nmore"))
    assert second == Restart(2, "Nothing has moved")
    assert policy.next(second, DEATH) is None
    assert RestartPolicy(0).next(None, DEATH) is None


def run(most, *ends):
    """What attempts were told; each ends with the next of `ends`, None is a good one."""
    told, left = [], list(ends)

    def attempt(restart):
        told.append(restart and restart.number)
        if error := left.pop(0):
            raise error

    return told, lambda: with_restarts(RestartPolicy(most), attempt)


def test_attempts_go_on_until_one_is_good():
    told, go = run(3, DEATH, DEATH, None)
    go()
    assert told == [None, 1, 2]


@pytest.mark.parametrize("last", [DEATH, ValueError("a decision"), KeyboardInterrupt()])
def test_the_last_error_is_the_runs(last):
    told, go = run(1, DEATH, last)
    with pytest.raises(type(last)) as caught:
        go()
    assert caught.value is last
    assert told == [None, 1]


def save(folder, step):
    (folder / f"global_step_{step}").mkdir()


def test_with_auto_the_newest_checkpoint_of_the_folder_counts(tmp_path):
    save(tmp_path, 3)
    own = OwnCheckpoints(tmp_path)
    trainer = TrainerConfig()
    assert own.resumed(trainer) == trainer
    save(tmp_path, 4)
    assert own.resumed(trainer) == trainer


@pytest.mark.parametrize(
    "settings", [{"resume_mode": "disable"}, {"resume_mode": "resume_path", "resume_from_path": "x"}]
)
def test_with_other_modes_only_what_this_run_saved_counts(tmp_path, settings):
    save(tmp_path, 50)  # of an earlier run
    own = OwnCheckpoints(tmp_path)
    trainer = TrainerConfig(**settings)
    assert own.resumed(trainer) == trainer  # nothing saved yet: begin as the run began
    for step in (2, 10):
        save(tmp_path, step)
    (tmp_path / "global_step_12.tmp").mkdir()
    resumed = own.resumed(trainer)
    assert resumed.resume_mode == "resume_path"
    assert resumed.resume_from_path == str(tmp_path / "global_step_10")
