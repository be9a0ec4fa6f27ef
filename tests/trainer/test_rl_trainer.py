"""The loop in this process, on real workers: what a schedule changes and what it must not."""

import pytest
from small_run import compose_run

from verl.single_controller import WorkerError
from verl.trainer.listeners import BaseListener
from verl.trainer.rl_trainer import RLTrainer
from verl.trainer.roles import local_roles
from verl.trainer.run_data import load_run_data
from verl.trainer.writing import Writing
from verl.types import Sample
from verl.workers.actor import ActorWorker
from verl.workers.rollout import RolloutWorker


class Record(BaseListener):
    """Keeps steps, and the sampler as a checkpoint would."""

    def __init__(self, data):
        self.data = data
        self.steps, self.samplers = [], []

    def after(self, step):
        self.steps.append(step)
        self.samplers.append(self.data.sampler.state_dict())


class StopAfter(BaseListener):
    """Wishes to stop after a step; 0: before the first one."""

    def __init__(self, number):
        self.number = number

    def before_first(self, step):
        if self.number == 0:
            step.stop("nothing to do")

    def after(self, step):
        if step.number == self.number:
            step.stop("enough")
            step.stop("and another reason")


@pytest.fixture
def train(tmp_path):
    def run(schedule, *overrides, step=0, sampler=None, total=5, before=()):
        """Train on from `step`, with 4 of 10 prompts a step; returns the record of the steps."""
        config = compose_run(
            tmp_path,
            "actor_rollout_ref.actor.self_distillation.demonstration_choice=random",
            "algorithm.rollout_correction.rollout_is=token",
            f"trainer.total_training_steps={total}",
            f"trainer.rollout_schedule={schedule}",
            *overrides,
        )
        data = load_run_data(config)
        if sampler:
            data.sampler.load_state_dict(sampler)
        record = Record(data)
        with local_roles(config, total) as roles:
            trainer = RLTrainer(config, data, roles, Writing(config, data, roles, step), step)
            trainer.listeners = [*before, record]
            record.end = trainer.fit()
        return record

    return run


def prompts(record):
    return [[sample.prompt.index for sample in step.samples] for step in record.steps]


def texts(record):
    return [[sample.response_text for sample in step.samples] for step in record.steps]


def staleness(record):
    return [step.metrics["training/rollout_staleness"] for step in record.steps]


def test_both_schedules_see_the_same_prompts_in_the_same_order(train):
    on_policy, one_off = train("on_policy"), train("one_step_off")
    assert prompts(one_off) == prompts(on_policy)
    assert one_off.samplers == on_policy.samplers
    assert [step.metrics["training/epoch"] for step in one_off.steps] == [0, 0, 1, 1, 2]
    assert staleness(on_policy) == [0] * 5
    assert staleness(one_off) == [0, 1, 1, 1, 1]
    first, second = (record.steps[0] for record in (on_policy, one_off))
    assert first.samples == second.samples and first.rows == second.rows  # nothing differs until weights do
    for step in on_policy.steps:  # one rank trains on what is taught
        taught = sum(row.num_tokens for row in step.rows if row.is_taught)
        assert step.metrics["global_seqlen/balanced_min"] == step.metrics["global_seqlen/balanced_max"] == taught
        assert step.metrics["global_seqlen/mean"] == sum(row.num_tokens for row in step.rows) >= taught
    gap = [step.metrics["training/rollout_probs_diff_mean"] for step in one_off.steps]
    assert gap[0] < 1e-5 < 1e-4 < min(gap[1:])  # the drift that the correction is for


@pytest.mark.parametrize("schedule", ["on_policy", "one_step_off"])
def test_a_listener_ends_the_run_and_those_after_it_see_the_last_step(train, schedule):
    whole = train(schedule, total=3)
    assert [step.is_last for step in whole.steps] == [False, False, True] and whole.end == ""
    stopped = train(schedule, before=[StopAfter(2)])
    assert [step.is_last for step in stopped.steps] == [False, True]
    assert stopped.end == "enough"
    assert texts(stopped) == texts(whole)[:2]
    nothing = train(schedule, before=[StopAfter(0)])
    assert nothing.steps == [] and nothing.end == "nothing to do"


def test_a_resumed_run_trains_on_every_prompt_once(train):
    whole = train("one_step_off")
    begun = train("one_step_off", total=2)
    resumed = train("one_step_off", step=2, sampler=begun.samplers[-1])
    assert prompts(begun) + prompts(resumed) == prompts(whole)
    assert staleness(resumed) == [0, 1, 1]


@pytest.mark.parametrize("schedule", ["on_policy", "one_step_off"])
def test_an_engine_that_fails_ends_the_run_with_its_error(train, monkeypatch, schedule):
    generate = RolloutWorker.generate

    def fail_later(self, requests):
        for part in generate(self, requests):
            if part[0].weight_version >= 1:
                raise OSError("no space for the cache")
            yield part

    fail_later.__dispatch__ = generate.__dispatch__
    monkeypatch.setattr(RolloutWorker, "generate", fail_later)
    with pytest.raises(WorkerError, match="no space for the cache"):
        train(schedule)


@pytest.mark.parametrize("schedule", ["on_policy", "one_step_off"])
def test_an_engine_that_fails_once_changes_nothing_but_when_a_batch_is_written(train, monkeypatch, schedule):
    whole = train(schedule)
    generate, failed = RolloutWorker.generate, []

    def fail_once(self, requests):
        parts = generate(self, requests)
        first = next(parts)
        yield first
        if first[0].weight_version == 1 and not failed:
            failed.append(len(requests) - len(first))
            raise OSError("no space for the cache")
        yield from parts

    fail_once.__dispatch__ = generate.__dispatch__
    monkeypatch.setattr(RolloutWorker, "generate", fail_once)
    found = train(schedule)
    assert prompts(found) == prompts(whole) and found.samplers == whole.samplers
    assert [step.metrics["rollout/engine_restarts"] for step in found.steps][-1] == 1
    reissued = [step.metrics["rollout/reissued_requests"] for step in found.steps]
    assert sum(reissued) == failed[0] > 0
    for step in found.steps:
        assert len(step.samples) == 12 and len({sample.rollout.weight_version for sample in step.samples}) == 1
    if schedule == "on_policy":
        assert texts(found) == texts(whole)
        assert reissued == [0, failed[0], 0, 0, 0]
    else:  # weights 1 were lost with the engine: batch 3 is written by the next ones
        assert staleness(found) == [0, 1, 0, 1, 1]


def test_an_update_that_fails_ends_the_run_also_while_a_batch_is_written(train, monkeypatch):
    update = ActorWorker.update_policy

    def fail(self, mini_batches):
        raise OSError("no space for the gradient")

    fail.__dispatch__ = update.__dispatch__
    monkeypatch.setattr(ActorWorker, "update_policy", fail)
    with pytest.raises(WorkerError, match="no space for the gradient"):
        train("one_step_off")


def test_rows_hold_the_reprompts_of_their_own_samples(train):
    (step,) = train("on_policy", total=1).steps
    tokenizer_sees = [bool(row.teacher_prompt_ids) for row in step.rows]
    groups: dict[str, list[Sample]] = {}
    for sample in step.samples:
        groups.setdefault(sample.uid, []).append(sample)
    for sample, is_taught in zip(step.samples, tokenizer_sees, strict=True):
        others = [s for s in groups[sample.uid] if s is not sample]
        assert is_taught == (any(s.reward.score for s in others) or bool(sample.reward.feedback))


@pytest.fixture
def scored_by_length(tmp_path):
    """The override for a scorer that finds about half of all responses right."""
    scorer = tmp_path / "by_length.py"
    head = "def compute_score(data_source, solution_str, ground_truth, extra_info=None):"
    scorer.write_text(f"{head}\n    return float(len(solution_str) % 2)\n")
    return f"custom_reward_function.path={scorer}"


def test_right_samples_by_grpo_weights_by_pass_rate_and_a_frozen_model(train, scored_by_length):
    keys = ("correct_samples=grpo", "pass_rate_weight=True", "kl_anchor_coef=0.1", "teacher_update_rate=0.05")
    settings = [f"actor_rollout_ref.actor.self_distillation.{key}" for key in keys]
    first, second = train("on_policy", scored_by_length, *settings, total=2).steps
    for sample, row in zip(first.samples, first.rows, strict=True):
        scores = [other.reward.score for other in first.samples if other.uid == sample.uid]
        assert row.is_routed == (sample.reward.score == 1.0)
        assert row.is_taught == (sample.reward.score == 0.0 and 0 < sum(scores) < len(scores))
        assert len(row.advantages) == len(row.ref_log_probs) == len(row.response_ids)
        if row.is_taught:
            assert row.distillation_weight == pytest.approx(2**0.5 / 3)  # one of three is right, or two
    assert {row.is_routed for row in first.rows} == {row.is_taught for row in first.rows} == {True, False}
    assert first.metrics["self_distillation/pass_rate_weight"] == pytest.approx(2**0.5 / 3)
    held = [step.metrics["self_distillation/kl_anchor"] for step in (first, second)]
    assert held[0] == pytest.approx(0.0, abs=1e-6) and held[1] > 1e-6


def test_a_policy_gradient_of_the_uncertain_tokens(train, scored_by_length):
    grpo = (scored_by_length, "actor_rollout_ref.actor.policy_loss.loss_mode=vanilla")
    uncertain = "actor_rollout_ref.actor.policy_loss.high_entropy_fraction=0.25"
    (step,) = train("on_policy", *grpo, uncertain, "actor_rollout_ref.actor.ppo_mini_batch_size=2", total=1).steps
    (whole,) = train("on_policy", *grpo, total=1).steps
    assert step.samples == whole.samples and step.metrics["actor/high_entropy_threshold"] > 0
    kept = changed = 0
    for row, full in zip(step.rows, whole.rows, strict=True):
        assert len(row.old_log_probs) == len(row.response_ids) and not full.old_log_probs  # two updates, and one
        written = [(a, b) for a, b, bit in zip(row.advantages, full.advantages, row.response_mask, strict=True) if bit]
        assert all(a in (0.0, b) for a, b in written)
        if full.advantages[0]:
            kept, changed = kept + sum(a == b for a, b in written), changed + sum(a != b for a, b in written)
    assert 0 < kept < changed


def test_the_one_seed_reaches_the_order_of_the_data_and_every_response(train):
    def first_batch(seed):
        (step,) = train("on_policy", f"trainer.seed={seed}", total=1).steps
        return [s.prompt.index for s in step.samples], {s.prompt.index: s.response_text for s in step.samples}

    order, texts = first_batch(1)
    other_order, other_texts = first_batch(2)
    assert first_batch(1) == (order, texts)
    assert other_order != order
    both = texts.keys() & other_texts.keys()  # the same prompts, answered otherwise
    assert both and any(texts[index] != other_texts[index] for index in both)
