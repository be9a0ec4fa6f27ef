"""experiments/verl_training.sh: what it says, and that its exit status is the trainer's."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "experiments" / "verl_training.sh"


def run(*arguments, cwd="/"):
    env = os.environ | {"PYTHON": sys.executable, "PYTHONPATH": str(ROOT)}
    return subprocess.run(["bash", str(SCRIPT), *arguments], capture_output=True, text=True, env=env, cwd=cwd)


@pytest.mark.parametrize("arguments", [(), ("name",), ("name", "sdpo")])
def test_too_few_arguments_give_the_usage_and_nothing_else(arguments, tmp_path):
    process = run(*arguments, cwd=tmp_path)
    assert (process.returncode, process.stderr) == (1, "")
    assert "bash experiments/verl_training.sh EXPERIMENT CONFIG DATA" in process.stdout
    assert not list(tmp_path.iterdir())


def test_a_plan_of_the_run(tmp_path):
    process = run("trial", "sdpo", str(tmp_path), "trainer.dry_run=true", "data.train_batch_size=64")
    assert process.returncode == 0, process.stderr
    heading = ["Experiment: trial", "Config: sdpo", f"Task: {tmp_path}"]
    assert process.stdout.splitlines()[:3] == heading
    assert "Arguments: trainer.dry_run=true data.train_batch_size=64\n" in process.stdout


def test_the_exit_status_is_the_trainers(tmp_path):
    process = run("trial", "sdpo", str(tmp_path), "trainer.dry_run=true", "trainer.nodes=1")
    assert process.returncode == 2 and "trainer.nnodes" in process.stderr


@pytest.mark.slow
def test_the_embedded_preset_trains_here(tmp_path):
    """Two steps through launcher, verl_training.sh and trainer, with data that the launcher makes."""
    env = os.environ | {"PYTHON": sys.executable, "PYTHONPATH": str(ROOT), "CLUSTER_DATA_DIR": str(tmp_path / "data")}
    small = ["trainer.total_training_steps=2", "trainer.test_freq=-1", "data.train_batch_size=4", "trainer.seed=3"]
    folder = f"trainer.default_local_dir={tmp_path}/run"
    command = ["bash", str(ROOT / "experiments" / "local" / "run_embedded.sh"), *small, folder]
    process = subprocess.run(command, capture_output=True, text=True, env=env)
    assert process.returncode == 0, process.stderr[-3000:]
    assert (tmp_path / "run" / "latest_checkpointed_iteration.txt").read_text().strip() == "2"
