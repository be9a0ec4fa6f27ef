"""Runs that are asked to stop while there is time to save: by the file of VERL_STOP_FILE, as Slurm jobs are."""

import json
import signal

import pytest
from sft_runs import Runs

from verl.checkpoint import find_latest
from verl.config import PPOConfig
from verl.config.root import TrainerConfig
from verl.trainer.interrupts import Terminated
from verl.trainer.main_sft import DOOR
from verl.trainer.run import recorded_run


@pytest.fixture
def run(tmp_path):
    return Runs(tmp_path)


@pytest.fixture
def stop_file(tmp_path, monkeypatch):
    """Is there: the run is asked to stop."""
    path = tmp_path / "stop"
    path.touch()
    monkeypatch.setenv("VERL_STOP_FILE", str(path))
    return path


def status(folder):
    return json.loads((folder / "status.json").read_text())


def metrics(folder):
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [(line["step"], line["train/loss"]) for line in lines]


@pytest.mark.parametrize("saving", ["trainer.save_freq=0", "trainer.save_freq=2"])
def test_a_run_that_is_asked_to_stop_saves_its_step_and_the_same_command_goes_on(run, stop_file, tmp_path, saving):
    folder = tmp_path / "run"
    command = run.arguments(3, saving, folder=folder)
    assert DOOR.open(command) == 75
    assert find_latest(folder) == folder / "global_step_1"
    assert (status(folder)["status"], [step for step, _ in metrics(folder)]) == ("interrupted", [1])
    assert status(folder)["reason"] == (
        "asked to stop after step 1, which is saved; the same command goes on from there"
    )
    assert DOOR.open(command) == 75  # each start comes one step further, however often it is asked
    stop_file.unlink()
    assert DOOR.open(command) == 0
    assert status(folder)["status"] == "finished"
    assert metrics(folder) == metrics(run(3, saving, folder=tmp_path / "whole"))


def test_a_run_that_would_not_resume_is_not_to_be_started_again(run, stop_file, tmp_path):
    folder = tmp_path / "run"
    assert DOOR.open(run.arguments(2, "trainer.resume_mode=disable", folder=folder)) == 130
    assert find_latest(folder) == folder / "global_step_1"
    assert status(folder)["reason"].endswith("the same command does not resume from it")


def test_after_the_last_step_there_is_nothing_to_stop(run, stop_file, tmp_path):
    assert DOOR.open(run.arguments(1, folder=tmp_path / "run")) == 0
    assert status(tmp_path / "run")["status"] == "finished"


def test_a_step_that_did_not_end_in_time_is_told(stop_file, tmp_path):
    with (
        pytest.raises(Terminated),
        recorded_run(PPOConfig(trainer=TrainerConfig(default_local_dir=str(tmp_path / "run")))),
    ):
        raise Terminated(signal.SIGTERM)
    assert status(tmp_path / "run")["reason"].startswith("SIGTERM; it was asked to stop before, but its step did not")
