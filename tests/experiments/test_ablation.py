"""The ablation of teachers: which runs it makes, and what it compares at the end."""

from collections import Counter

from verl.config import PPOConfig
from verl.config.checks import ppo_problems
from verl.trainer.compose import compose

TEACHERS = "ablation/run_teachers.sh"


def test_five_teachers_of_three_seeds(dry_run):
    jobs = dry_run(TEACHERS)
    assert len({job.name for job in jobs}) == 15
    found = Counter()
    for job in jobs:
        name, preset, _, *overrides = job.command
        (run,) = compose(PPOConfig, "ppo_trainer", [f"--config-name={preset}", *overrides], ppo_problems)
        trainer, settings = run.config.trainer, run.config.actor_rollout_ref.actor.self_distillation
        assert trainer.default_local_dir == f"checkpoints/{name}" and trainer.total_training_steps == 100
        assert f"seed{trainer.seed}" in name
        kind = settings.teacher_regularization, settings.teacher_update_rate, settings.teacher_anchor_coef
        found[kind] += 1
    kinds = [("ema", 1.0, 0.0), ("ema", 0.0, 0.0), ("ema", 0.05, 0.0), ("ema", 0.05, 0.3), ("trust-region", 0.3, 0.0)]
    assert found == dict.fromkeys(kinds, 3)


def test_a_dry_run_says_how_to_compare(launch):
    process = launch(TEACHERS, "--dry-run", SEEDS="7", OUTPUT="docs/teachers.png")
    assert process.returncode == 0, process.stderr
    last = process.stdout.splitlines()[-1]
    assert "verl.trainer.main_report --compare" in last and last.endswith("--output docs/teachers.png)")
    assert last.count("seed7") == 5 and "'EMA .05, self-anchor .3=checkpoints/TEACHER-anchor-seed7-" in last
