"""From scored samples to the batch of one update: the border between text and tensors.

Everything the ranks must agree on is decided here, on the driver: advantages, teacher prompts, which rows make up a
mini-batch, who computes what, and what the loss is divided by.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace

import torch

from verl.algorithms.base import Algorithm
from verl.algorithms.kl import kl_estimate
from verl.config import ActorRolloutRefConfig, PPOConfig
from verl.config.forwards import log_prob_limits, update_limits
from verl.protocol import MiniBatch, Row, plan_mini_batch
from verl.registry import ADVANTAGES
from verl.types import Sample


def updates_per_batch(config: PPOConfig) -> int:
    """Optimizer steps that follow one rollout batch."""
    actor = config.actor_rollout_ref.actor
    return config.data.train_batch_size // actor.ppo_mini_batch_size * actor.ppo_epochs


def make_rows(samples: Sequence[Sample], teacher_prompts: Sequence[list[int]] | None) -> list[Row]:
    """One row for each sample; `teacher_prompts` holds an empty list where a sample has no target."""
    return [
        Row(
            prompt_ids=sample.rollout.prompt_ids,
            response_ids=sample.rollout.response_ids,
            response_mask=sample.rollout.response_mask,
            rollout_log_probs=sample.rollout.log_probs,
            teacher_prompt_ids=teacher_prompts[index] if teacher_prompts is not None else [],
            index=index,
        )
        for index, sample in enumerate(samples)
    ]


def add_advantages(rows: Sequence[Row], samples: Sequence[Sample], config: PPOConfig) -> list[Row]:
    """Turn scores into per-token advantages with the configured estimator.

    The score of a response sits on its last token written by the policy; with `algorithm.use_kl_in_reward` every token
    also pays kl_coef times the KL estimate of old against reference log-probs.
    """
    algorithm = config.algorithm
    width = max((len(row.response_ids) for row in rows), default=0)
    mask = torch.tensor([_pad(row.response_mask, width) for row in rows], dtype=torch.float32)  # [B, T]
    rewards = torch.zeros_like(mask)
    for number, (row, sample) in enumerate(zip(rows, samples, strict=True)):
        written = [position for position, bit in enumerate(row.response_mask) if bit]
        if written:
            rewards[number, written[-1]] = sample.reward.score
    if algorithm.use_kl_in_reward:
        old = torch.tensor([_pad(row.old_log_probs, width) for row in rows])
        ref = torch.tensor([_pad(row.ref_log_probs, width) for row in rows])
        rewards -= algorithm.kl_ctrl.kl_coef * kl_estimate(old, ref, algorithm.kl_penalty) * mask
    estimate = ADVANTAGES.load(algorithm.adv_estimator)
    advantages = estimate(rewards, mask, [sample.uid for sample in samples], algorithm).tolist()
    return [
        replace(row, advantages=values[: len(row.response_ids)]) for row, values in zip(rows, advantages, strict=True)
    ]


def _pad(values: Sequence[float], width: int) -> list[float]:
    return list(values) + [0.0] * (width - len(values))


def cut_updates(
    rows: Sequence[Row],
    roles: ActorRolloutRefConfig,
    algorithm: Algorithm,
    world_size: int,
    is_balanced: bool,
    seed: int,
) -> list[list[MiniBatch]]:
    """Cut a rollout batch into optimizer steps and spread each over the ranks.

    Args:
        rows: the rollout batch.
        roles: how many prompts are in a mini-batch, and how much in a forward of student and teacher.
        algorithm: whether there is a teacher, and whether rows without a target take part in the loss.
        world_size: number of ranks.
        is_balanced: spread rows by cost.
        seed: of this step: for the order of rows, used with `actor.shuffle` and from the second epoch on, and for the
            choice of self-anchors.

    Returns:
        For each rank, its part of every optimizer step in order.
    """
    actor = roles.actor
    size = actor.ppo_mini_batch_size * roles.rollout.n
    steps: list[list[MiniBatch]] = []
    for epoch in range(actor.ppo_epochs):
        order = list(range(len(rows)))
        if actor.shuffle or epoch > 0:
            random.Random(seed + epoch).shuffle(order)
        for start in range(0, len(rows), size):
            chosen = [rows[index] for index in order[start : start + size]]
            steps.append(
                plan_mini_batch(
                    chosen,
                    world_size,
                    update_limits(roles),
                    log_prob_limits(roles, roles.ref) if algorithm.needs_teacher else None,
                    is_balanced,
                    algorithm.needs_untaught_rows,
                    choose_anchors(chosen, algorithm.anchored_fraction, f"{seed} {epoch} {start}"),
                )
            )
    return [[step[rank] for step in steps] for rank in range(world_size)]


def choose_anchors(rows: Sequence[Row], fraction: float, seed: str) -> set[int]:
    """Indices of the rows of a mini-batch that become self-anchors: a share of the taught ones, at least one of them.

    Chosen on the driver from the mini-batch alone, so ranks and micro-batches have no part in it.
    """
    taught = [row.index for row in rows if row.is_taught]
    if not taught or fraction == 0:
        return set()
    return set(random.Random(seed).sample(taught, max(1, round(fraction * len(taught)))))
