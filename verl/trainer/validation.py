"""Validation: responses to held-out prompts, their metrics, and how well the teacher uses a shown solution.

The last is an early warning. A self-teacher that no longer reproduces a solution it is shown cannot teach, and a moving
teacher was seen to lose that skill well before the score fell.
"""

from __future__ import annotations

from collections import defaultdict

from verl.config import PPOConfig
from verl.config.forwards import log_prob_limits
from verl.config.rollout import ValidationSamplingConfig
from verl.protocol import plan_mini_batch
from verl.trainer.demonstrations import demonstration_rows
from verl.trainer.roles import Roles
from verl.trainer.run_data import RunData
from verl.trainer.sampling import derive_seed, sample_and_score
from verl.trainer.validation_metrics import error_shares, judged, validation_metrics
from verl.types import Sample, Sampling


def validate(
    config: PPOConfig, data: RunData, roles: Roles, has_teacher: bool
) -> tuple[dict[str, float], list[Sample]]:
    """Write and score `val_kwargs.n` responses to every validation prompt, with the same seeds every time."""
    kwargs = config.actor_rollout_ref.rollout.val_kwargs
    samples = sample_and_score(
        prompts=data.validation,
        n=kwargs.n,
        sampling=_sampling(kwargs, config.data.max_response_length),
        seed=validation_seed(config.trainer.seed),
        rollouts=roles.rollouts,
        rewards=roles.rewards,
        decode=data.decode,
    )
    metrics = validation_metrics(judged(samples)) | error_shares(judged(samples))
    if has_teacher:
        metrics |= teacher_accuracy(config, data, roles, samples)
    return metrics, samples


def validation_seed(seed: int) -> int:
    """Of the responses to held-out prompts, in a run with this `trainer.seed`."""
    return derive_seed(seed, "validation")


def _sampling(kwargs: ValidationSamplingConfig, max_tokens: int) -> Sampling:
    if not kwargs.do_sample:
        return Sampling(temperature=0.0, max_tokens=max_tokens)
    return Sampling(kwargs.temperature, kwargs.top_p, kwargs.top_k, max_tokens)


def teacher_accuracy(config: PPOConfig, data: RunData, roles: Roles, samples: list[Sample]) -> dict[str, float]:
    """Show the teacher a solution the policy found and ask for it back, teacher-forced.

    `val-aux/<data_source>/teacher_demo_acc` is the share of prompts where every token of the shown solution is the
    teacher's most likely one; `.../teacher_demo_log_prob` the mean log-prob of its tokens, in nats.
    """
    rows = demonstration_rows(samples, config.actor_rollout_ref.actor.self_distillation, data.encode)
    limits = log_prob_limits(config.actor_rollout_ref, config.actor_rollout_ref.ref)
    parts = plan_mini_batch(rows, roles.actor.world_size, limits, limits)
    by_source: dict[str, list[tuple[bool, float]]] = defaultdict(list)
    for found in roles.actor.teacher_match(parts):
        for index, match in found.items():
            by_source[samples[index].prompt.data_source].append(match)
    metrics: dict[str, float] = {}
    for source, matches in by_source.items():
        metrics[f"val-aux/{source}/teacher_demo_acc"] = sum(exact for exact, _ in matches) / len(matches)
        metrics[f"val-aux/{source}/teacher_demo_log_prob"] = sum(value for _, value in matches) / len(matches)
    return metrics
