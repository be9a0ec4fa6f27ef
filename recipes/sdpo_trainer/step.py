"""From a micro-batch of TRL's tensors to the self-distillation loss of the shared core.

Only tokens that are learnt go in: those that the policy wrote, of rows that have a teacher prompt, within the model's
length. TRL's layout is kept: prompts padded on the left, completions on the right, T columns of completion at the end.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from sdpo_trainer.config import SDPOConfig
from verl.algorithms.base import ResponseTokens
from verl.algorithms.head import Head, HiddenTerm
from verl.algorithms.projection import policy_loss
from verl.algorithms.sdpo import SDPO
from verl.config.actor import ActorConfig
from verl.config.root import AlgorithmConfig, RolloutCorrectionConfig
from verl.protocol import MaskTotals, Metrics, Totals

Batch = dict[str, Any]
TEACHER_INPUTS = {name: f"teacher_{name}" for name in ("input_ids", "attention_mask", "position_ids")}
"""Argument of the model: where a batch has it."""


def learnt_tokens(batch: Batch) -> Tensor:
    """[B, T] bool: which completion tokens are learnt."""
    length = batch["completion_ids"].shape[1]
    mask = batch["completion_mask"] * batch["teacher_attention_mask"][:, -length:]
    if "tool_mask" in batch:
        mask = mask * batch["tool_mask"]
    return (mask * batch["self_distillation_mask"][:, None]) > 0


def count(is_learnt: Sequence[Tensor]) -> tuple[int, int]:
    """Tokens that are learnt, and rows with at least one, of several micro-batches."""
    return sum(int(each.sum()) for each in is_learnt), sum(int(each.any(1).sum()) for each in is_learnt)


def totals(num_tokens: int, num_rows: int, length: int) -> Totals:
    """What the loss of an optimizer step is divided by; `length`: the longest completion."""
    counted = MaskTotals(num_tokens, num_rows)
    return Totals(response=counted, taught=counted, max_response_length=length)


@dataclass(frozen=True)
class MicroBatch:
    """The rows of a micro-batch that a forward runs, and their learnt tokens, M in all."""

    batch: Batch
    is_learnt: Tensor
    """[B, T]"""

    @classmethod
    def of(cls, batch: Batch, only_learnt_rows: bool) -> MicroBatch:
        """All rows as they are, or those with a learnt token, without padding that none of them needs.

        Then at least one row is left, for wrappers that need a forward on every rank.
        """
        is_learnt = learnt_tokens(batch)
        if not only_learnt_rows:
            return cls(batch, is_learnt)
        rows = is_learnt.any(1).nonzero()[:, 0]
        if len(rows) == 0:
            rows = torch.zeros(1, dtype=torch.long, device=is_learnt.device)
        picked = {name: value[rows] for name, value in batch.items() if isinstance(value, Tensor) and value.ndim}
        return cls(*_trimmed(picked, is_learnt[rows]))

    @cached_property
    def student_inputs(self) -> dict[str, Tensor]:
        """Prompt and completion [B, P + T]."""
        batch = self.batch
        return {
            "input_ids": torch.cat([batch["prompt_ids"], batch["completion_ids"]], dim=1),
            "attention_mask": torch.cat([batch["prompt_mask"], batch["completion_mask"]], dim=1),
        }

    @cached_property
    def teacher_inputs(self) -> dict[str, Tensor]:
        """Teacher prompt and completion [B, P' + T]."""
        return {name: self.batch[key] for name, key in TEACHER_INPUTS.items()}

    def states(self, hidden: Tensor) -> Tensor:
        """[M, H]: of hidden states [B, S, H] of either sequence those that predict the learnt tokens."""
        length = self.is_learnt.shape[1]
        return hidden[:, -length - 1 : -1][self.is_learnt]

    @cached_property
    def tokens(self) -> ResponseTokens:
        """The learnt tokens."""
        lengths = tuple(self.is_learnt.sum(1).tolist())
        ids = self.batch["completion_ids"][self.is_learnt]
        return ResponseTokens(
            ids=ids,
            mask=torch.ones_like(ids, dtype=torch.float32),
            lengths=lengths,
            is_taught=(True,) * len(lengths),
            old_log_probs=self._picked("old_per_token_logps"),
            rollout_log_probs=self._picked("sampling_per_token_logps"),
        )

    def _picked(self, name: str) -> Tensor | None:
        values = self.batch.get(name)
        return None if values is None else values[self.is_learnt]


def _trimmed(batch: Batch, is_learnt: Tensor) -> tuple[Batch, Tensor]:
    """Without columns before the longest prompt begins, and behind the last learnt token, which predict nothing."""
    length = is_learnt.shape[1]
    behind = length - int(is_learnt.any(0).nonzero().max()) - 1 if bool(is_learnt.any()) else length - 1
    trimmed = dict(batch)
    for mask, width, names in (
        ("prompt_mask", batch["prompt_mask"].shape[1], ("prompt_ids", "prompt_mask")),
        ("teacher_attention_mask", batch["teacher_attention_mask"].shape[1] - behind, TEACHER_INPUTS.values()),
    ):
        before = int(batch[mask].any(0).nonzero().min())
        trimmed |= {name: batch[name][:, before:width] for name in names}
    completions = ("completion_ids", "completion_mask", "old_per_token_logps", "sampling_per_token_logps")
    trimmed |= {name: batch[name][:, : length - behind] for name in completions if name in batch}
    return trimmed, is_learnt[:, : length - behind]


class Distillation:
    """`verl.algorithms.sdpo` with a trainer's settings."""

    def __init__(self, config: SDPOConfig, temperature: float) -> None:
        self.temperature, self.tokens_per_tile = temperature, config.logits_chunk_tokens
        actor = ActorConfig(self_distillation=config.core())
        threshold = config.rollout_is_threshold
        correction = RolloutCorrectionConfig()
        self.plain = SDPO(actor, AlgorithmConfig(rollout_correction=correction))
        self.corrected = self.plain
        if threshold is not None:
            correction = replace(correction, rollout_is="token", rollout_is_threshold=threshold)
            self.corrected = SDPO(actor, AlgorithmConfig(rollout_correction=correction))

    def loss(
        self, part: MicroBatch, hidden: Tensor, head: Head, terms: Sequence[HiddenTerm], counted: Totals
    ) -> tuple[Tensor, Metrics]:
        """This micro-batch's share of the optimizer step's loss.

        Args:
            part: M learnt tokens.
            hidden: [M, H] of the student, with gradient.
            head: of the student.
            terms: of the teacher, each with [M, H]; none when the step has no learnt token at all.
            counted: over all micro-batches and ranks of the step.
        """
        tokens = part.tokens
        algorithm = self.plain if tokens.rollout_log_probs is None else self.corrected
        return policy_loss(
            algorithm, hidden, head, tokens, self.temperature, terms, counted, tokens_per_tile=self.tokens_per_tile
        )
