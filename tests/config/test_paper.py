"""The paper's presets as published, and every row of the tables in docs/paper.md composes."""

import functools
import re
from pathlib import Path

import pytest

from verl.config import ConfigError, PPOConfig, SelfDistillationConfig
from verl.config.checks import ppo_problems
from verl.self_distillation.reprompt import render_messages
from verl.self_distillation.sections import Sections
from verl.trainer.compose import compose

ROOT = Path(__file__).resolve().parents[2]
ACTOR, ROLLOUT = "actor_rollout_ref.actor", "actor_rollout_ref.rollout"
DISTILLATION = f"{ACTOR}.self_distillation"
BOTH = {
    "data.train_batch_size": 32,
    f"{ACTOR}.policy_loss.loss_mode": "sdpo",
    f"{ACTOR}.optim.weight_decay": 0.01,
    f"{ACTOR}.grad_clip": 1.0,
    f"{DISTILLATION}.teacher_regularization": "ema",
    f"{DISTILLATION}.is_clip": 2.0,
    f"{ROLLOUT}.n": 8,
    f"{ROLLOUT}.temperature": 1.0,
    f"{ROLLOUT}.val_kwargs.temperature": 0.6,
    f"{ROLLOUT}.val_kwargs.top_p": 0.95,
    "algorithm.rollout_correction.rollout_is": "token",
}
PUBLISHED = {
    "sdpo_generalization": {
        f"{ACTOR}.ppo_mini_batch_size": 32,
        f"{DISTILLATION}.distillation_topk": 100,
        f"{DISTILLATION}.alpha": 0.5,
        f"{DISTILLATION}.teacher_update_rate": 0.05,
        f"{DISTILLATION}.dont_reprompt_on_self_success": True,
        f"{DISTILLATION}.include_environment_feedback": False,
        f"{ACTOR}.optim.lr": 1e-5,
        f"{ACTOR}.optim.lr_warmup_steps": 10,
        f"{ROLLOUT}.val_kwargs.n": 16,
    },
    "sdpo_rich_feedback": {
        f"{ACTOR}.ppo_mini_batch_size": 1,
        f"{DISTILLATION}.distillation_topk": 20,
        f"{DISTILLATION}.alpha": 1.0,
        f"{DISTILLATION}.teacher_update_rate": 0.01,
        f"{DISTILLATION}.include_environment_feedback": True,
        f"{ACTOR}.optim.lr": 1e-6,
        f"{ACTOR}.optim.lr_warmup_steps": 0,
        f"{ROLLOUT}.val_kwargs.n": 4,
    },
    "ttt": {
        "data.train_batch_size": 1,
        f"{ACTOR}.ppo_mini_batch_size": 1,
        f"{ROLLOUT}.n": 16,
        f"{DISTILLATION}.distillation_topk": 20,
        f"{DISTILLATION}.alpha": 1.0,
        f"{DISTILLATION}.teacher_update_rate": 0.01,
        f"{ACTOR}.optim.lr": 1e-6,
        f"{ACTOR}.optim.lr_warmup_steps": 0,
    },
}


@pytest.mark.parametrize("preset", PUBLISHED)
def test_preset(one, read, preset):
    config, expected = one(preset), BOTH | PUBLISHED[preset]
    assert {key: read(config, key) for key in expected} == expected


def rows_of(section):
    """(first cell, its overrides) of the table in a section of docs/paper.md."""
    text = (ROOT / "docs/paper.md").read_text().split(f"\n## {section}\n")[1].split("\n## ")[0]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line[:1] == "|"]
    return [(cell[0], re.findall(r"`([^`]+=[^`]+)`", cell[1])) for cell in cells[2:]]


TABLES = [
    *(("baseline_grpo", "", *row) for row in rows_of("Baselines")),
    *(("sdpo_rich_feedback", f"{DISTILLATION}.", *row) for row in rows_of("Ablations")),
    *(("sdpo_generalization", f"{DISTILLATION}.", *row) for row in rows_of("Stability")),
]


@functools.cache
def plain(preset):
    (run,) = compose(PPOConfig, "ppo_trainer", [f"--config-name={preset}"], ppo_problems)
    return run.config


@pytest.mark.parametrize(("preset", "below", "name", "overrides"), TABLES, ids=[row[2] for row in TABLES])
def test_every_row_of_the_tables_composes_and_changes_something(one, monkeypatch, preset, below, name, overrides):
    monkeypatch.chdir(ROOT)
    changed = one(preset, *(f"{below}{override}" for override in overrides))
    assert (changed != plain(preset)) == (bool(overrides) and "(the preset)" not in name)
    if len(overrides) > 1:  # the second key is there because the first needs it
        with pytest.raises(ConfigError, match=r"advantage_clip=5\.0"):
            one(preset, f"{below}{overrides[0]}")


def test_all_that_is_new_is_off_by_default(one):
    settings = SelfDistillationConfig()
    assert (settings.correct_samples, settings.pass_rate_weight, settings.kl_anchor_coef) == ("distill", False, 0.0)
    for preset in ("sdpo", "baseline_grpo"):
        config = one(preset).actor_rollout_ref.actor
        assert config.policy_loss.high_entropy_fraction is None
        assert config.self_distillation == settings


def test_the_template_of_the_own_attempt_shows_it():
    settings = SelfDistillationConfig(reprompt_template=f"file:{ROOT}/recipes/templates/own_attempt.txt")
    asked = [{"role": "user", "content": "Q"}]
    (message,) = render_messages(asked, Sections(feedback="F", attempt="A"), settings)
    assert message["content"] == (
        "Q\nA\nThe following is feedback from your unsuccessful earlier attempt:\n\nF\n\nCorrectly solve the original"
        " question."
    )
