"""One optimizer step of one rank: teacher forwards, micro-batches through the student, backward, clipping, AdamW.

The teacher goes first, over packs of its own, and leaves nothing but hidden states behind; so it may run more rows at a
time than the student, who has to keep activations. FSDP's collectives must be the same on every rank, while the work is
not: the driver has planned the same number of forwards for all, and a rank that has no row for one of them runs a
meaningless token whose loss is zero.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from enum import Enum
from itertools import chain
from typing import cast

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule

from verl.algorithms.base import Algorithm, ResponseTokens
from verl.algorithms.head import Head
from verl.algorithms.projection import policy_loss
from verl.config.actor import ActorConfig
from verl.models.optimizer import clip_gradients, learning_rate
from verl.models.policy_model import PolicyModel
from verl.protocol import Metrics, MiniBatch, Row, Totals, add_metrics
from verl.workers.process_group import Place
from verl.workers.ref import RefWorker


class Outcome(Enum):
    """What became of a mini-batch."""

    DONE = "done"
    EMPTY = "empty"
    """Nothing in it counts: no forward, no optimizer step, no weight decay."""
    NOT_FINITE = "not finite"
    """The norm of its gradient was not finite: no optimizer step."""


@dataclass
class Learner:
    """A rank's student with what moves it."""

    place: Place
    model: PolicyModel
    optimizer: torch.optim.AdamW
    algorithm: Algorithm
    actor: ActorConfig
    temperature: float
    total_steps: int
    teacher: RefWorker | None = None
    num_steps: int = 0
    """Optimizer steps done: the position of the learning-rate schedule."""

    def step(self, batch: MiniBatch) -> tuple[Outcome, Metrics]:
        """Learn one mini-batch. A collective; every rank gets the same outcome and its own part of the metrics."""
        metrics: Metrics = {}
        if self.algorithm.needs_teacher:
            metrics["self_distillation/empty_target_batch"] = (float(batch.totals.taught.num_tokens == 0), 1.0)
        counted = batch.totals.response if self.algorithm.needs_untaught_rows else batch.totals.taught
        if counted.num_tokens == 0:
            return Outcome.EMPTY, metrics
        parts = [metrics, *self._accumulate(batch)]
        outcome, step_metrics = self._apply()
        return outcome, add_metrics([*parts, step_metrics])

    @contextmanager
    def gathered(self) -> Iterator[PolicyModel]:
        """The student; without `reshard_after_forward` its weights are gathered once until the end."""
        with nullcontext() if self.reshards else self.model.kept_gathered():
            yield self.model

    @property
    def reshards(self) -> bool:
        """Whether gathered weights and whole gradients are given up after every use."""
        return self.actor.fsdp_config.reshard_after_forward

    def _accumulate(self, batch: MiniBatch) -> list[Metrics]:
        """The teacher's forwards, then forward and backward of every micro-batch."""
        own = self.teacher.states(batch.teacher_packs) if self.teacher else {}
        metrics: list[Metrics] = []
        with self.gathered():
            live = self.teacher.live_states(batch.teacher_packs) if self.teacher else {}
            for number, rows in enumerate(batch.micro_batches, 1):
                is_reduced = self.reshards or number == len(batch.micro_batches)
                sharded = cast(FSDPModule, self.model)
                sharded.set_requires_gradient_sync(is_reduced)
                sharded.set_is_last_backward(is_reduced)
                metrics.append(self._backward(rows, own, live, batch.totals))
        return metrics

    def _backward(self, rows: list[Row], own: dict[int, Tensor], live: dict[int, Tensor], totals: Totals) -> Metrics:
        """Forward and backward of one micro-batch."""
        tokens = response_tokens(rows, self.place.device)

        def loss_fn(hidden: Tensor, head: Head) -> tuple[Tensor, Metrics]:
            terms = self.teacher.terms(rows, own, live, head) if self.teacher else []
            return policy_loss(self.algorithm, hidden, head, tokens, self.temperature, terms, totals)

        loss, metrics = self.model(self.place.pack(rows), loss_fn)
        # FSDP averages gradients over ranks; the loss is a sum over ranks.
        (loss * self.place.world_size).backward()
        return metrics

    def _apply(self) -> tuple[Outcome, Metrics]:
        """Clip and step, unless the gradient is not finite; all ranks see the same norm and decide alike."""
        parameters: list[nn.Parameter] = [p for group in self.optimizer.param_groups for p in group["params"]]
        norm = clip_gradients(parameters, self.actor.grad_clip)
        rate = learning_rate(self.actor.optim, self.num_steps, self.total_steps)
        is_finite = math.isfinite(norm)
        if is_finite:
            for group in self.optimizer.param_groups:
                group["lr"] = rate
            self.optimizer.step()
            self.num_steps += 1
        self.optimizer.zero_grad(set_to_none=True)
        if not is_finite:
            return Outcome.NOT_FINITE, {}
        return Outcome.DONE, {"actor/lr": (rate, 1.0), "actor/grad_norm": (norm, 1.0)}


def response_tokens(rows: Sequence[Row], device: torch.device) -> ResponseTokens:
    """The response tokens of rows, one row after another.

    Raises:
        ValueError: some rows have old, rollout or reference log-probs or advantages, and some do not.
    """
    return ResponseTokens(
        ids=_flat([row.response_ids for row in rows], torch.long, device),
        mask=_flat([row.response_mask for row in rows], torch.float32, device),
        lengths=tuple(len(row.response_ids) for row in rows),
        is_taught=tuple(row.is_taught for row in rows),
        old_log_probs=_per_token(rows, "old_log_probs", device),
        rollout_log_probs=_per_token(rows, "rollout_log_probs", device),
        advantages=_per_token(rows, "advantages", device),
        ref_log_probs=_per_token(rows, "ref_log_probs", device),
    )


def _per_token(rows: Sequence[Row], name: str, device: torch.device) -> Tensor | None:
    """Values that all rows with a response have, or none of them."""
    values: list[list[float]] = [getattr(row, name) for row in rows]
    if not any(values):
        return None
    for row, found in zip(rows, values, strict=True):
        if len(found) != len(row.response_ids):
            raise ValueError(
                f"Row {row.index} has {len(found)} {name} for {len(row.response_ids)} response tokens, and others of"
                f" its micro-batch have {name}; give them to all tokens of all rows, or to none."
            )
    return _flat(values, torch.float32, device)


def _flat(values: Sequence[Sequence[float]], dtype: torch.dtype, device: torch.device) -> Tensor:
    return torch.tensor(list(chain.from_iterable(values)), dtype=dtype, device=device)
