"""How much of the distillation a sample gets, by its own score and its group's.

Both rules answer reports that self-distillation collapses late, from updates on what is right already; both are off by
default. They look at scores alone and are applied to the rows on the driver, so micro-batches and ranks have no part in
them, and a recording can be trained from with other rules than it was made with.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from verl.config.self_distillation import SelfDistillationConfig
from verl.protocol import Row
from verl.types import Sample


def weigh_rows(
    rows: Sequence[Row], samples: Sequence[Sample], config: SelfDistillationConfig
) -> tuple[list[Row], dict[str, float]]:
    """Apply `correct_samples` and `pass_rate_weight`.

    A success is a score that reaches `success_reward_threshold`. With p the share of successes of a group, a row with
    a target weighs sqrt(p (1 - p)); where that is 0 nothing is taught, so it has no target any more.

    Args:
        rows: one for each sample, in order.
        samples: a rollout batch: all samples of a uid.
        config: says what is done.

    Returns:
        The rows, and of what was asked for `self_distillation/correct_left_out_fraction` (samples that had a target and
        lost it because they are a success) and `self_distillation/pass_rate_weight` (mean over samples with a target).
    """
    successes = [sample.reward.score >= config.success_reward_threshold for sample in samples]
    weighed, metrics = list(rows), {}
    if config.correct_samples != "distill":
        lost = sum(row.is_taught and success for row, success in zip(weighed, successes, strict=True))
        metrics["self_distillation/correct_left_out_fraction"] = lost / max(len(rows), 1)
        is_routed = config.correct_samples == "grpo"
        weighed = [
            replace(row, teacher_prompt_ids=[], is_routed=is_routed) if success else row
            for row, success in zip(weighed, successes, strict=True)
        ]
    if config.pass_rate_weight:
        sizes = Counter(sample.uid for sample in samples)
        solved = Counter(sample.uid for sample, success in zip(samples, successes, strict=True) if success)
        rates = [solved[sample.uid] / sizes[sample.uid] for sample in samples]
        weights = [math.sqrt(rate * (1 - rate)) for rate in rates]
        taught = [weight for row, weight in zip(weighed, weights, strict=True) if row.is_taught]
        if taught:
            metrics["self_distillation/pass_rate_weight"] = sum(taught) / len(taught)
        weighed = [
            replace(row, distillation_weight=weight) if weight else replace(row, teacher_prompt_ids=[])
            for row, weight in zip(weighed, weights, strict=True)
        ]
    return weighed, metrics
