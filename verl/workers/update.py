"""One optimizer step of one rank: micro-batches through teacher and student, backward, clipping, AdamW.

FSDP's collectives must be the same on every rank, while the work is not: a rank may have no row in a micro-batch, or
no taught one. The ranks therefore first agree, in one small reduction, which micro-batches anybody needs at all, and
for which anybody needs the teacher; a rank without rows then runs one meaningless token whose loss is multiplied by
zero.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule

from verl.algorithms.base import Algorithm
from verl.algorithms.projection import HiddenTerm, policy_loss
from verl.config.actor import ActorConfig
from verl.models.collate import collate, pad_per_token
from verl.models.optimizer import clip_gradients, learning_rate
from verl.models.policy_model import PolicyModel
from verl.protocol import Metrics, MiniBatch, Row, Totals, add_metrics
from verl.workers.process_group import Place
from verl.workers.ref import RefWorker

TeacherTerms = Callable[[Tensor], list[HiddenTerm]]


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

    def _accumulate(self, batch: MiniBatch) -> list[Metrics]:
        """Forward and backward of every micro-batch that any rank has work in."""
        is_used = self.algorithm.needs_untaught_rows
        micro_batches = [[row for row in rows if is_used or row.is_taught] for rows in batch.micro_batches]
        work = torch.tensor(
            [[bool(rows), any(row.is_taught for row in rows)] for rows in micro_batches],
            dtype=torch.int32,
            device=self.place.device,
        )
        dist.all_reduce(work, dist.ReduceOp.MAX)
        wanted = [
            (rows, bool(taught)) for rows, (needed, taught) in zip(micro_batches, work.tolist(), strict=True) if needed
        ]
        metrics: list[Metrics] = []
        for number, (rows, is_any_taught) in enumerate(wanted, 1):
            is_last = number == len(wanted)
            sharded = cast(FSDPModule, self.model)
            sharded.set_requires_gradient_sync(is_last)
            sharded.set_is_last_backward(is_last)
            metrics.append(self._backward(rows, is_any_taught, batch.totals))
        return metrics

    def _backward(self, rows: list[Row], is_any_taught: bool, totals: Totals) -> Metrics:
        """Forward and backward of one micro-batch."""
        device = self.place.device
        sequences = collate(rows, device)
        length = sequences.response_ids.shape[1]
        teacher_terms: TeacherTerms | None = None
        if self.teacher is not None and is_any_taught:
            teacher_terms = self.teacher.terms([row for row in rows if row.is_taught], length)

        def loss_fn(hidden: Tensor, head: Tensor) -> tuple[Tensor, Metrics]:
            if not rows:
                return 0.0 * (hidden.sum() + head.sum()), {}
            return policy_loss(
                self.algorithm,
                hidden,
                head,
                sequences.response_ids,
                self.temperature,
                teacher_terms(head) if teacher_terms else [],
                response_mask=sequences.response_mask,
                self_distillation_mask=torch.tensor([float(row.is_taught) for row in rows], device=device),
                totals=totals,
                old_log_probs=pad_per_token([r.old_log_probs for r in rows], length, "old_log_probs", device),
                rollout_log_probs=pad_per_token(
                    [r.rollout_log_probs for r in rows], length, "rollout_log_probs", device
                ),
                advantages=pad_per_token([r.advantages for r in rows], length, "advantages", device),
                ref_log_probs=pad_per_token([r.ref_log_probs for r in rows], length, "ref_log_probs", device),
            )

        loss, metrics = self.model(sequences, loss_fn)
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
