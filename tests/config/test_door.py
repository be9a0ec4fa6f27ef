"""The command itself: exit status, streams, Hydra's flags, and what is not imported."""

import os
import subprocess
import sys

import pytest

ENVIRONMENT = os.environ | {"TASK": "datasets/none", "EXPERIMENT": "trial", "USER": "ada", "HF_HUB_OFFLINE": "1"}
HEAVY = "{'torch', 'ray', 'vllm', 'transformers'} & sys.modules.keys()"


def command(*arguments, cwd=None):
    """Run main_ppo, and print at its end which heavy modules it imported."""
    code = (
        "import sys, runpy, atexit\n"
        f"atexit.register(lambda: print('heavy:', sorted({HEAVY}), file=sys.stderr))\n"
        "runpy.run_module('verl.trainer.main_ppo', run_name='__main__', alter_sys=True)"
    )
    full = [sys.executable, "-c", code, *arguments]
    return subprocess.run(full, capture_output=True, text=True, env=ENVIRONMENT, cwd=cwd, check=False, timeout=120)


def test_misspelt_key_ends_before_torch_is_imported():
    done = command("--config-name=sdpo", "actor_rollout_ref.actor.self_distilation.alpha=1")
    assert done.returncode == 2
    assert "Did you mean actor_rollout_ref.actor.self_distillation.alpha" in done.stderr
    assert "no such file" in done.stderr  # all at once: the data are not there either
    assert "heavy: []" in done.stderr


def test_cfg_job_prints_the_tree(tmp_path):
    done = command("--config-name=sdpo", "--cfg", "job", "--resolve", "data.seed=5", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "loss_mode: sdpo" in done.stdout and "seed: 5" in done.stdout
    assert "heavy: []" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_help_names_presets_and_flags():
    done = command("--help")
    assert done.returncode == 0
    for word in ("baseline_grpo", "--config-dir", "trainer.dry_run=true", "self_distillation:"):
        assert word in done.stdout


@pytest.mark.parametrize("arguments", [["--config-name=nope"], ["trainer.dry_run"], ["--config-dir=/nope"]])
def test_hydra_errors_end_with_status_2(arguments):
    done = command(*arguments)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr


def test_dry_run_starts_nothing_and_leaves_nothing(tmp_path):
    done = command("--config-name=sdpo", "trainer.dry_run=true", "data.return_raw_chat=True", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    for words in (
        "4 FSDP2 ranks",
        "32 x 8 responses = 256 rollouts",
        "2048 + 8192 = 10240 each, 2,621,440 in a step",
        "32 / 32 prompts x 1 epoch(s) = 1 optimizer updates of 256 rollouts",
        "datasets/none/train.parquet: there is no such file",
        "config.json of Qwen/Qwen3-8B cannot be read",
    ):
        assert words in done.stdout
    assert "note: data.return_raw_chat=True has no effect here" in done.stderr
    assert "note: actor_rollout_ref.actor.self_distillation.teacher_update_rate=0.05: a teacher that" in done.stderr
    assert "heavy: []" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_dry_run_of_a_sweep_prints_every_plan(tmp_path):
    done = command("--config-name=sdpo", "-m", "trainer.seed=1,2", "trainer.dry_run=true", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "checkpoints/trial/0" in done.stdout and "checkpoints/trial/1" in done.stdout
    assert list(tmp_path.iterdir()) == []


def test_supervised_door():
    full = [sys.executable, "-m", "verl.trainer.main_sft", "data.train_fils=x", "optim.lr=-1"]
    done = subprocess.run(full, capture_output=True, text=True, env=ENVIRONMENT, check=False, timeout=120)
    assert done.returncode == 2
    for words in ("Did you mean data.train_files", "optim.lr=-1", "model.path=null", "data.train_files=null"):
        assert words in done.stderr
