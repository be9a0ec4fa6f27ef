"""A run ends when its metric has fallen from its best and stays there, also across a resume."""

import json
import math

import pytest
from small_run import compose_run

from verl.config.stopping import StopOnCollapseConfig
from verl.trainer.collapse import UNSEEN_STEPS, CollapseGuard
from verl.trainer.listeners import Step
from verl.trainer.rl_trainer import RLTrainer
from verl.trainer.roles import local_roles
from verl.trainer.run_data import load_run_data
from verl.trainer.train import train
from verl.trainer.writing import Writing

METRIC = "val-core/own/acc/mean@8"


def make(folder, **options):
    best = []
    guard = CollapseGuard(StopOnCollapseConfig(**{"metric": METRIC} | options), folder, best.append)
    return guard, best


def follow(guard, values, first=1):
    """The step that ends the run, if any; None stands for a step without the metric."""
    for number, value in enumerate(values, first):
        step = Step(number, {} if value is None else {METRIC: value})
        guard.after(step)
        if step.is_last:
            return step
    return None


def test_patience_counts_observations_in_a_row(tmp_path):
    guard, best = make(tmp_path, max_drop=0.25, patience=2)
    end = follow(guard, [0.25, 0.5, 0.25, 0.2, None, 0.75, 0.4, None, 0.3, 0.2])
    assert end is not None and end.number == 9
    assert f"{METRIC} has collapsed: its best was 0.75 at step 6, the last 2 observations were 0.4, 0.3" in (
        end.stop_reason
    )
    assert "max_drop=0.25" in end.stop_reason and best == [1, 2, 6]


def test_a_value_within_the_drop_ends_the_row(tmp_path):
    guard, _ = make(tmp_path, max_drop=0.1, patience=2)
    assert follow(guard, [0.8, 0.5, 0.75, 0.5, 0.71, 0.5]) is None


def test_low_may_be_good_and_nan_never_is(tmp_path):
    guard, best = make(tmp_path, mode="min", max_drop=1.0, patience=2)
    end = follow(guard, [5.0, 3.0, 3.9, math.nan, 4.5])
    assert end is not None and end.number == 5 and best == [1, 2]
    hopeless, best = make(tmp_path, patience=2)
    end = follow(hopeless, [math.nan, math.nan])
    assert end is not None and "its best was never a number" in end.stop_reason and best == []


def test_a_resumed_run_remembers(tmp_path):
    lines = [{"step": 0, METRIC: 0.5}, {"step": 1}, {"step": 2, METRIC: None}]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"step": 3, "va')
    guard, best = make(tmp_path, patience=2)
    start = Step(2)
    guard.before_first(start)
    assert not start.is_last and best == [0]
    end = follow(guard, [None, 0.3], first=3)
    assert end is not None and end.number == 4 and "best was 0.5 at step 0" in end.stop_reason
    again, _ = make(tmp_path, patience=1)
    start = Step(2)
    again.before_first(start)
    assert start.is_last  # it had collapsed already: no step is taken


def test_a_wrong_name_is_asked_about_once(tmp_path, caplog):
    guard, _ = make(tmp_path)
    for number in range(1, 2 * UNSEEN_STEPS):
        guard.after(Step(number, {"val-core/own/acc/mean@4": 0.5}))
    (message,) = caplog.messages
    assert f"{METRIC} was not logged in {UNSEEN_STEPS} steps" in message
    assert message.endswith("Near it: val-core/own/acc/mean@4.")


@pytest.mark.parametrize("patience", [1, 3])
def test_a_run_ends_in_order(tmp_path, patience):
    settings = "trainer.stop_on_collapse"
    config = compose_run(
        tmp_path,
        f"{settings}.metric=training/global_step",
        f"{settings}.mode=min",
        f"{settings}.max_drop=0.5",
        f"{settings}.patience={patience}",
    )
    data = load_run_data(config)
    with local_roles(config, 5) as roles:
        trainer = RLTrainer(config, data, roles, Writing(config, data, roles, 0), 0)
        trainer.listeners = [CollapseGuard(config.trainer.stop_on_collapse, tmp_path, lambda step: None)]
        reason = trainer.fit()
    assert trainer.step == 1 + patience and "training/global_step has collapsed: its best was 1 at step 1" in reason


@pytest.mark.slow
def test_a_real_run_finishes_early_and_keeps_its_best(tmp_path):
    settings = "trainer.stop_on_collapse"
    config = compose_run(
        tmp_path,
        f"{settings}.metric=training/global_step",
        f"{settings}.mode=min",
        f"{settings}.max_drop=1.5",
        f"{settings}.patience=2",
        "trainer.save_freq=1",
        "trainer.max_actor_ckpt_to_keep=1",
        "actor_rollout_ref.actor.self_distillation.demo_log_prob_freq=1",
        "trainer.total_training_steps=10",
    )
    train(config, start_roles=lambda config, num_steps, logs: local_roles(config, num_steps))
    status = json.loads((tmp_path / "run/status.json").read_text())
    assert (status["status"], status["ended_early"]["step"]) == ("finished", 4)
    assert "best was 1 at step 1, the last 2 observations were 3, 4" in status["ended_early"]["reason"]
    assert sorted(path.name for path in (tmp_path / "run").glob("global_step_*")) == ["global_step_1", "global_step_4"]
    lines = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [0, 1, 2, 3, 4]
    assert all("self_distillation/feedback_effect" in line for line in lines[1:])
