"""Guards end a run that is beyond use, and let others be."""

from dataclasses import replace
from functools import partial
from math import isfinite

import pytest
from small_run import compose_run

from verl.trainer.guards import GAP, GapGuard, NonFiniteLimit, RunStopped, make_guards
from verl.trainer.listeners import BaseListener, Step
from verl.trainer.replay import Replay, dump_batch
from verl.trainer.rl_trainer import RLTrainer
from verl.trainer.roles import local_roles
from verl.trainer.run_data import load_run_data
from verl.trainer.writing import Writing
from verl.workers.finite import NonFinite
from verl.workers.update import Outcome, UpdateResult

DONE, EMPTY, BAD = (UpdateResult(outcome, {}) for outcome in (Outcome.DONE, Outcome.EMPTY, Outcome.NOT_FINITE))


def test_only_updates_in_a_row_count():
    limit = NonFiniteLimit(3)
    limit.check(1, [[BAD, BAD, DONE, BAD]])
    limit.check(2, [[EMPTY, BAD]])  # nothing was learned in between
    assert limit.in_a_row == 2
    limit.check(3, [[DONE]])
    assert limit.in_a_row == 0
    with pytest.raises(RunStopped, match=r"3 updates in a row .*max_nonfinite_updates=3.*Step 4, update 3 of 4"):
        limit.check(4, [[BAD] * 4])


def test_a_step_is_looked_at_only_when_something_was_skipped():
    limit = NonFiniteLimit(3)
    limit.check(1, [[BAD, BAD]])
    assert limit.is_touched_by({"actor/skipped_steps": 1.0, "actor/grad_norm": 1.0})
    assert not limit.is_touched_by({"actor/skipped_steps": 0.0}) and limit.in_a_row == 2  # nothing counted
    assert not limit.is_touched_by({"actor/skipped_steps": 0.0, "actor/grad_norm": 1.0}) and limit.in_a_row == 0


def test_without_a_limit_nothing_ends():
    limit = NonFiniteLimit(None)
    limit.check(1, [[BAD] * 50])
    assert limit.in_a_row == 50


def test_samples_of_all_ranks_are_named(caplog):
    left = [replace(BAD, non_finite=[NonFinite(3, "advantages"), NonFinite(3, "old_log_probs")])]
    right = [replace(BAD, non_finite=[NonFinite(1, "advantages")])]
    NonFiniteLimit(3).check(7, [left, right], "sample {}".format, " See the dump.")
    assert (
        "Step 7, update 1 of 1: advantages not finite in 2 sample(s): sample 1, sample 3; old_log_probs not finite in 1"
        " sample(s): sample 3. The update was skipped on all ranks, no weight was changed. See the dump." in caplog.text
    )


def test_many_samples_are_counted(caplog):
    bad = replace(BAD, non_finite=[NonFinite(index, "advantages") for index in range(30)])
    NonFiniteLimit(None).check(1, [[bad]])
    assert "in 30 sample(s): row 0, row 1" in caplog.text and "row 7 and 22 more" in caplog.text


def test_the_gap_must_stay_large():
    guard = GapGuard(0.5)
    for number, gap in enumerate([0.6, 0.4, 0.9, float("nan"), 0.7, None, 0.8], 1):
        guard.after(Step(number, {} if gap is None else {GAP: gap}))
    with pytest.raises(RunStopped, match=r"was 0.8, 0.75 nats in steps 7 to 8.*max_rollout_log_prob_gap=0.5.*top_p"):
        guard.after(Step(8, {GAP: 0.75, "training/rollout_staleness": 0.0}))


def test_responses_behind_the_weights_may_differ_more():
    guard = GapGuard(0.5)
    for number in (1, 2, 3):
        guard.after(Step(number, {GAP: 0.9, "training/rollout_staleness": 1.0}))
    with pytest.raises(RunStopped, match=r"=0.5 times 1 . 1 updates that the responses are behind"):
        for number in (4, 5):
            guard.after(Step(number, {GAP: 1.1, "training/rollout_staleness": 1.0}))


class Keep(BaseListener):
    def __init__(self):
        self.steps = []

    def after(self, step):
        self.steps.append(step)


@pytest.fixture
def train(tmp_path):
    """`train(config, ...)`: a run in this process with its guards; returns its steps, also of one that was stopped."""

    def run(config, written_with=None, is_replay=False):
        data, keep = load_run_data(config), Keep()
        keep.error = None
        with local_roles(config, data.total_steps) as roles:
            if is_replay:
                source = Replay(config, data)
                step = source.start_from(0)
            else:
                source, step = Writing(written_with or config, data, roles, 0), 0
            trainer = RLTrainer(config, data, roles, source, step)
            dump = partial(dump_batch, config=config, data=data)
            trainer.listeners = [keep, *make_guards(config.trainer, roles.actor, tmp_path / "run", dump)]
            try:
                trainer.fit()
            except RunStopped as error:
                keep.error = str(error)
            keep.log_probs = roles.actor.probe_log_probs([1, 2, 3, 4])
        return keep

    return run


def test_an_engine_that_samples_otherwise_is_noticed(train, tmp_path):
    config = compose_run(tmp_path)
    found = train(config, written_with=compose_run(tmp_path, "actor_rollout_ref.rollout.temperature=3"))
    assert "rollout.temperature" in found.error and "in steps 1 to 2" in found.error
    assert len(found.steps) == 2


@pytest.mark.parametrize(
    "overrides",
    [
        ["actor_rollout_ref.actor.ppo_mini_batch_size=1"],
        ["algorithm.rollout_correction.bypass_mode=true"],
        ["algorithm.rollout_correction.rollout_is=token", "trainer.rollout_schedule=one_step_off"],
    ],
)
def test_no_alarm_while_all_is_well(train, tmp_path, overrides):
    found = train(compose_run(tmp_path, *overrides))
    assert found.error is None
    gaps = [step.metrics[GAP] for step in found.steps]
    assert len(gaps) == 5 and gaps[0] < 1e-4
    assert all(gap < 1e-4 for gap in gaps) == ("one_step_off" not in overrides[-1])


OVERFLOW = """
def compute_score(data_source, solution_str, ground_truth, extra_info=None):
    return 3e38 if len(solution_str) % 2 else -3e38
"""


def test_scores_that_overflow_are_dumped_and_end_the_run(train, tmp_path, caplog):
    config = compose_run(
        tmp_path, "actor_rollout_ref.actor.policy_loss.loss_mode=vanilla", "trainer.max_nonfinite_updates=2"
    )
    (tmp_path / "scorer.py").write_text(OVERFLOW)
    found = train(config)
    assert [step.metrics["actor/skipped_steps"] for step in found.steps] == [1, 1]
    assert all("actor/pg_loss" not in step.metrics for step in found.steps)
    bad = [row.index for row in found.steps[1].rows if not all(map(isfinite, row.advantages))]
    sample = found.steps[1].samples[bad[0]]
    name = f"row {bad[0]} (uid {sample.uid}, prompt {sample.prompt.index})"
    folder = tmp_path / "run/nonfinite/step_2"
    for text in (found.error, caplog.text):
        assert f"advantages not finite in {len(bad)} sample(s):" in text and name in text and f"{folder} " in text
    assert "2 updates in a row were not finite" in found.error and "learning rate" in found.error

    config = compose_run(tmp_path, "actor_rollout_ref.actor.policy_loss.loss_mode=vanilla", f"trainer.replay={folder}")
    again = train(config, is_replay=True)
    assert [step.number for step in again.steps] == [2]
    assert again.steps[0].samples == found.steps[1].samples
    assert again.steps[0].metrics["actor/skipped_steps"] == 1
    assert again.log_probs == found.log_probs  # the weights are still the first ones, in both
