"""Batches that have nothing, or odd things, to learn from: each ends in the documented behaviour of a real step.

One start of real roles in this process serves all cases; the batches are written by hand.
"""

from dataclasses import dataclass, field, replace
from itertools import count

import pytest
import torch
from doors import arguments, write_rows

from verl.config import PPOConfig
from verl.config.root import AlgorithmConfig
from verl.registry import ADVANTAGES
from verl.self_distillation.reprompt import write_reprompts
from verl.trainer.compose import compose
from verl.trainer.rl_trainer import RLTrainer
from verl.trainer.roles import local_roles
from verl.trainer.run_data import load_run_data
from verl.trainer.sampling import Batch
from verl.trainer.schedule import OnPolicy
from verl.trainer.writing import Writing
from verl.types import InputError, Reward, Rollout, Sample

DISTILLATION = "self_distillation/"
RIGHT, WRONG = "light.on()", "light.off()"
LONG = "move(" * 300


@dataclass(frozen=True)
class Case:
    """A batch of two groups, and what its step says."""

    groups: list[list[tuple[str, float, str]]]
    """Of each response: text, score, feedback."""
    learns: bool
    """Whether an optimizer step follows."""
    metrics: dict[str, float] = field(default_factory=dict)
    settings: dict = field(default_factory=dict)
    """Of `self_distillation`."""
    finish: str = "stop"
    same_prompt: bool = False


def group(*scores, feedback="", text=None):
    return [(text if text is not None else RIGHT if score else WRONG, score, feedback) for score in scores]


CASES = {
    "all responses right": Case(
        [group(1.0, 1.0), group(1.0, 1.0)],
        True,
        {"success_group_fraction": 1.0, "reprompt_sample_fraction": 1.0, "empty_target_batch": 0.0},
    ),
    "none right and no feedback": Case(
        [group(0.0, 0.0), group(0.0, 0.0)],
        False,
        {"success_group_fraction": 0.0, "reprompt_sample_fraction": 0.0, "empty_target_batch": 1.0},
    ),
    "none right, but feedback": Case(
        [group(0.0, 0.0, feedback="no such key"), group(0.0, 0.0, feedback="no such key")],
        True,
        {"feedback_used_fraction": 1.0, "reprompt_sample_fraction": 1.0, "empty_target_batch": 0.0},
    ),
    "blank feedback": Case(
        [group(0.0, 0.0, feedback=" \n"), group(0.0, 0.0, feedback="\t")],
        False,
        {"feedback_available_fraction": 0.0, "empty_target_batch": 1.0},
    ),
    "groups of one, right": Case(
        [group(1.0), group(1.0)],
        False,
        {"success_group_fraction": 1.0, "reprompt_sample_fraction": 0.0, "empty_target_batch": 1.0},
    ),
    "groups of one, wrong with feedback": Case(
        [group(0.0, feedback="no such key"), group(1.0)],
        True,
        {"reprompt_sample_fraction": 0.5, "empty_target_batch": 0.0},
    ),
    "the only right response is of another group": Case(
        [group(1.0, 0.0), group(0.0, 0.0)],
        True,
        {"success_group_fraction": 0.5, "reprompt_sample_fraction": 0.25},
    ),
    "one prompt twice in the batch": Case(
        [group(1.0, 0.0), group(0.0, 0.0)],
        True,
        {"success_group_fraction": 0.5, "reprompt_sample_fraction": 0.25},
        same_prompt=True,
    ),
    "every response is cut": Case(
        [group(1.0, 0.0), group(1.0, 0.0)],
        True,
        {"reprompt_sample_fraction": 0.5, "response_length/clip_ratio": 1.0},
        finish="length",
    ),
    "every response is only the end of sequence": Case(
        [group(0.0, 0.0, text="", feedback="empty"), group(0.0, 0.0, text="", feedback="empty")],
        True,
        {"response_length/max": 1.0, "reprompt_sample_fraction": 1.0},
    ),
    "no response has a token": Case(
        [group(0.0, 0.0, feedback="empty"), group(0.0, 0.0, feedback="empty")],
        False,
        {"response/aborted_ratio": 1.0, "response_length/mean": 0.0, "empty_target_batch": 1.0},
        finish="nothing",
    ),
    "demonstration longer than the limit": Case(
        [group(1.0, 1.0, text=LONG), group(1.0, 1.0, text=LONG)],
        True,
        {"reprompt_truncated_fraction": 1.0, "reprompt_dropped_fraction": 0.0, "reprompt_len/max": 128.0},
    ),
    "limit too small for the template": Case(
        [group(1.0, 1.0), group(1.0, 1.0)],
        False,
        {"reprompt_dropped_fraction": 1.0, "reprompt_sample_fraction": 0.0, "empty_target_batch": 1.0},
        {"max_reprompt_len": 4},
    ),
    "braces and template words in texts": Case(
        [group(1.0, 1.0, text="{prompt} {0} {{"), group(0.0, 0.0, feedback="{solution} }")],
        True,
        {"reprompt_sample_fraction": 1.0},
    ),
    "scores beyond 0 and 1": Case(
        [group(-1e30, 1e30), group(0.0, 2.0)],
        True,
        {"success_group_fraction": 1.0, "critic/score/max": 1e30},
    ),
}


ODD_BATCHES = {
    "one token": ([[1.0]], [[1.0]], ["a"]),
    "all scores equal": ([[0.0, 0.3]] * 3, [[1.0, 1.0]] * 3, ["a"] * 3),
    "one row without a token": ([[0.0, 1.0], [0.0, 0.0]], [[1.0, 1.0], [0.0, 0.0]], ["a", "a"]),
    "no row has a token": ([[], []], [[], []], ["a", "a"]),
    "nothing counts": ([[0.0], [0.0]], [[0.0], [0.0]], ["a", "b"]),
}


@pytest.mark.parametrize("name", ODD_BATCHES)
@pytest.mark.parametrize("estimator", ADVANTAGES.names)
def test_advantages_of_odd_batches_are_finite(estimator, name):
    rewards, mask, uids = ODD_BATCHES[name]
    mask = torch.tensor(mask)
    found = ADVANTAGES.load(estimator)(torch.tensor(rewards), mask, uids, AlgorithmConfig())
    assert found.shape == mask.shape and found.isfinite().all()
    assert not found[mask == 0].any()


@pytest.fixture(scope="module")
def started(tmp_path_factory):
    """(configuration, data, roles), with weights published once."""
    folder = tmp_path_factory.mktemp("steps")
    prompts = [[{"role": "user", "content": f"light {number}"}] for number in range(4)]
    rows = [{"data_source": "own", "prompt": prompt, "reward_model": {"ground_truth": ""}} for prompt in prompts]
    write_rows(folder / "train.parquet", rows)
    (folder / "scorer.py").write_text("def compute_score(data_source, solution_str, ground_truth, extra_info): ...")
    overrides = arguments(
        folder,
        "data.train_batch_size=2",
        f"custom_reward_function.path={folder}/scorer.py",
        "actor_rollout_ref.rollout.n=2",
        "actor_rollout_ref.actor.ppo_mini_batch_size=2",
        "actor_rollout_ref.actor.optim.lr_warmup_steps=0",
    )
    (run,) = compose(PPOConfig, "ppo_trainer", overrides, lambda config: [])
    data = load_run_data(run.config)
    with local_roles(run.config, 100) as roles:
        Writing(run.config, data, roles, 0).publish(0)
        yield run.config, data, roles


NUMBERS = count(1)


def make_trainer(started, case):
    config, data, roles = started
    actor = config.actor_rollout_ref.actor
    settings = replace(actor.self_distillation, **case.settings)
    roles_config = replace(config.actor_rollout_ref, actor=replace(actor, self_distillation=settings))
    config = replace(config, actor_rollout_ref=roles_config)
    return RLTrainer(config, data, roles, Writing(config, data, roles, 0))


def write_batch(trainer, case, number):
    """The batch of a case, as engines and scorers would have written it."""
    data, samples = trainer.data, []
    settings = trainer.config.actor_rollout_ref.actor.self_distillation
    for uid, responses in enumerate(case.groups):
        prompt = data.train[0 if case.same_prompt else uid]
        for text, score, feedback in responses:
            ids = data.tokenizer.encode(text, add_special_tokens=False)
            ids = {"stop": [*ids, data.tokenizer.eos_token_id], "length": ids, "nothing": []}[case.finish]
            length, position = len(ids), len(samples)
            reason = "stop" if case.finish == "stop" else "length"
            rollout = Rollout(position, prompt.token_ids, ids, [-1.0] * length, [1] * length, reason, number - 1)
            samples.append(Sample(str(uid), prompt, rollout, text, Reward(score, score, feedback)))
    return Batch(samples, write_reprompts(samples, settings, data.encode, number))


@pytest.mark.parametrize("name", CASES)
def test_a_step_ends_as_documented(started, name):
    case, number = CASES[name], next(NUMBERS)
    trainer = make_trainer(started, case)
    learner = trainer.roles.actor.workers[0].learner
    before, num_steps = [p.detach().clone() for p in learner.model.parameters()], learner.num_steps
    step = trainer.train_step(number, OnPolicy(lambda number: write_batch(trainer, case, number)))
    changed = any(not a.equal(b.detach()) for a, b in zip(before, learner.model.parameters(), strict=True))
    assert (changed, learner.num_steps - num_steps) == (case.learns, int(case.learns))
    assert ("actor/grad_norm" in step.metrics) == case.learns
    found = {name: step.metrics.get(name, step.metrics.get(DISTILLATION + name)) for name in case.metrics}
    assert found == pytest.approx(case.metrics)


def test_a_reprompt_that_is_too_long_is_an_error_where_that_is_asked_for(started):
    case = Case([group(1.0, 1.0, text=LONG)], False, settings={"reprompt_truncation": "error"})
    with pytest.raises(InputError, match=r"response 0 \(prompt 0\).*max_reprompt_len=128.*reprompt_truncation=right"):
        write_batch(make_trainer(started, case), case, 1)
