"""One optimizer step of one rank: teacher forwards, micro-batches through the student, backward, clipping, AdamW.

The teacher goes first, over packs of its own, and leaves nothing but hidden states behind; so it may run more rows at a
time than the student, who has to keep activations. FSDP's collectives must be the same on every rank, while the work is
not: the driver has planned the same number of forwards for all, and a rank that has no row for one of them runs a
meaningless token whose loss is zero.

What is not finite (loss, gradient, log-probs or advantages that came with a row) must not move a weight: all ranks skip
the update together, and look for the samples (`verl.workers.finite`).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from enum import Enum
from itertools import chain
from typing import cast

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule

from verl.algorithms.base import Algorithm, ResponseTokens
from verl.algorithms.head import Head
from verl.algorithms.projection import policy_loss, student_log_probs
from verl.config.actor import ActorConfig
from verl.models.optimizer import clip_gradients, learning_rate
from verl.models.policy_model import PolicyModel
from verl.protocol import Metrics, MiniBatch, Row, Totals, add_metrics
from verl.workers.finite import NonFinite, spoilt, spoilt_results, spoilt_rows
from verl.workers.process_group import Place
from verl.workers.ref import RefWorker


class Outcome(Enum):
    """What became of a mini-batch."""

    DONE = "done"
    EMPTY = "empty"
    """Nothing in it counts: no forward, no optimizer step, no weight decay."""
    NOT_FINITE = "not finite"
    """Its loss, the norm of its gradient or what came with its rows was not finite: no optimizer step."""


@dataclass(frozen=True)
class UpdateResult:
    """A mini-batch and what became of it."""

    outcome: Outcome
    metrics: Metrics
    """This rank's part; of a skipped mini-batch without what its numbers spoilt."""
    non_finite: list[NonFinite] = field(default_factory=list)
    """This rank's samples that were not finite; none when only the gradient was."""


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

    def step(self, batch: MiniBatch) -> UpdateResult:
        """Learn one mini-batch. A collective; every rank gets the same outcome and its own part of the rest."""
        metrics: Metrics = {}
        if self.algorithm.needs_teacher:
            metrics["self_distillation/empty_target_batch"] = (float(batch.totals.taught.num_tokens == 0), 1.0)
        counted = batch.totals.response if self.algorithm.needs_untaught_rows else batch.totals.taught
        if counted.num_tokens == 0:
            return UpdateResult(Outcome.EMPTY, metrics)
        parts, sign = self._accumulate(batch)
        step_metrics = self._apply(sign)
        if step_metrics is None:
            return UpdateResult(Outcome.NOT_FINITE, metrics, self._find_non_finite(batch))
        return UpdateResult(Outcome.DONE, add_metrics([metrics, *parts, step_metrics]))

    @contextmanager
    def gathered(self) -> Iterator[PolicyModel]:
        """The student; without `reshard_after_forward` its weights are gathered once until the end."""
        with nullcontext() if self.reshards else self.model.kept_gathered():
            yield self.model

    @property
    def reshards(self) -> bool:
        """Whether gathered weights and whole gradients are given up after every use."""
        return self.actor.fsdp_config.reshard_after_forward

    def _accumulate(self, batch: MiniBatch) -> tuple[list[Metrics], Tensor]:
        """The teacher's forwards, then forward and backward of every micro-batch; with the sign of `spoilt`."""
        own = self.teacher.states(batch.teacher_packs) if self.teacher else {}
        metrics: list[Metrics] = []
        sign = torch.zeros((), device=self.place.device)
        with self.gathered():
            live = self.teacher.live_states(batch.teacher_packs) if self.teacher else {}
            for number, rows in enumerate(batch.micro_batches, 1):
                is_reduced = self.reshards or number == len(batch.micro_batches)
                sharded = cast(FSDPModule, self.model)
                sharded.set_requires_gradient_sync(is_reduced)
                sharded.set_is_last_backward(is_reduced)
                part, part_sign = self._backward(rows, own, live, batch.totals)
                metrics.append(part)
                sign += part_sign
        return metrics, sign

    def _backward(
        self, rows: list[Row], own: dict[int, Tensor], live: dict[int, Tensor], totals: Totals
    ) -> tuple[Metrics, Tensor]:
        """Forward and backward of one micro-batch; with the sign of `spoilt`."""
        mine = self.place.own(rows)
        tokens = response_tokens(mine, self.place.device)

        def loss_fn(hidden: Tensor, head: Head) -> tuple[Tensor, Metrics]:
            terms = self.teacher.terms(mine, own, live, head) if self.teacher else []
            return policy_loss(self.algorithm, hidden, head, tokens, self.temperature, terms, totals)

        loss, metrics = self.model(self.place.pack(rows), loss_fn)
        # FSDP averages gradients over ranks; the loss is a sum over ranks.
        (loss * self.place.world_size).backward()
        return metrics, spoilt(loss, tokens)

    def _apply(self, sign: Tensor) -> Metrics | None:
        """Clip and step; None, and no step, if anything was not finite: all ranks see the same norm and decide alike.

        `sign` is this rank's 0, or nan if its loss or rows were not finite.
        """
        parameters: list[nn.Parameter] = [p for group in self.optimizer.param_groups for p in group["params"]]
        norm = clip_gradients(parameters, self.actor.grad_clip, sign)
        rate = learning_rate(self.actor.optim, self.num_steps, self.total_steps)
        is_finite = math.isfinite(norm)
        if is_finite:
            for group in self.optimizer.param_groups:
                group["lr"] = rate
            self.optimizer.step()
            self.num_steps += 1
        self.optimizer.zero_grad(set_to_none=True)
        return {"actor/lr": (rate, 1.0), "actor/grad_norm": (norm, 1.0)} if is_finite else None

    def _find_non_finite(self, batch: MiniBatch) -> list[NonFinite]:
        """This rank's samples behind a skipped update: what was given, and what forwards make of it. A collective."""

        def log_probs(rows: Sequence[Row]) -> Tensor:
            ids = response_tokens(self.place.own(rows), self.place.device).ids
            return model.evaluate(
                place.pack(rows), lambda hidden, head: student_log_probs(hidden, head, ids, self.temperature)
            )

        place = self.place
        found = [finding for rows in batch.micro_batches for finding in spoilt_rows(place.own(rows))]
        with self.gathered() as model:
            found += spoilt_results(batch.micro_batches, place.own, log_probs, "the student's log-probs")
        if (teacher := self.teacher) is not None:
            with teacher.evaluating() as model:
                found += spoilt_results(
                    batch.teacher_packs,
                    place.own,
                    lambda rows: model.evaluate(place.pack(rows, for_teacher=True), lambda hidden, _: hidden),
                    "the teacher's hidden states",
                )
        return found


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
        is_anchor=tuple(row.is_anchor for row in rows),
        old_log_probs=_per_token(rows, "old_log_probs", device),
        rollout_log_probs=_per_token(rows, "rollout_log_probs", device),
        advantages=_per_token(rows, "advantages", device),
        ref_log_probs=_per_token(rows, "ref_log_probs", device),
        distillation_weights=_per_row([row.distillation_weight for row in rows], 1.0, rows, device),
        routed_mask=_per_row([float(row.is_routed) for row in rows], 0.0, rows, device),
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


def _per_row(values: Sequence[float], usual: float, rows: Sequence[Row], device: torch.device) -> Tensor | None:
    """One value of each row, in all of its tokens; None when every row has the usual one."""
    if all(value == usual for value in values):
        return None
    repeated = [[value] * len(row.response_ids) for value, row in zip(values, rows, strict=True)]
    return _flat(repeated, torch.float32, device)


def _flat(values: Sequence[Sequence[float]], dtype: torch.dtype, device: torch.device) -> Tensor:
    return torch.tensor(list(chain.from_iterable(values)), dtype=dtype, device=device)
