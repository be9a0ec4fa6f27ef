"""From hidden states to the loss: the one place that knows logits.

Forwards return hidden states; here they meet the head (a plain tensor, gathered by the caller). This version holds the
logits of a whole micro-batch, [B, T, V] in float32; one that streams over tiles of tokens can take its place behind
the same functions. Hidden state t is the one that predicts response token t.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from verl.algorithms.base import Algorithm, LossInputs, Support, TokenDistribution
from verl.protocol import Metrics, Totals


@dataclass(frozen=True)
class HiddenTerm:
    """One summand of the teacher's logits: weight * hidden @ head^T. An EMA teacher has one, a trust region two."""

    weight: float
    hidden: Tensor
    """[B, T, H]"""
    head: Tensor
    """[V, H]"""


def project_student(
    hidden: Tensor, head: Tensor, response_ids: Tensor, temperature: float, support: Support
) -> TokenDistribution:
    """The student's distribution over the support, with gradient; top-k ids are its own.

    Args:
        hidden: [B, T, H].
        head: [V, H].
        response_ids: [B, T], any valid id in the padding.
        temperature: of the rollout; ValueError unless positive.
        support: what to compute.
    """
    logits = _logits(hidden, head, temperature)
    ids = None
    if support.topk is not None:
        ids = logits.detach().topk(min(support.topk, logits.shape[-1]), dim=-1).indices
    return _distribution(logits, response_ids, ids, support)


@torch.no_grad()
def project_teacher(
    terms: Sequence[HiddenTerm],
    response_ids: Tensor,
    temperature: float,
    support: Support,
    student_topk_ids: Tensor | None,
) -> TokenDistribution:
    """The teacher's distribution, without gradient, at the student's top-k ids; logits are mixed before temperature.

    Args:
        terms: at least one.
        response_ids: [B, T].
        temperature: the student's.
        support: what to compute.
        student_topk_ids: [B, T, K]; None without top-k.
    """
    first, *others = terms
    logits = first.weight * _logits(first.hidden, first.head, temperature)
    for term in others:
        logits += term.weight * _logits(term.hidden, term.head, temperature)
    return _distribution(logits, response_ids, student_topk_ids, support)


def policy_loss(
    algorithm: Algorithm,
    hidden: Tensor,
    head: Tensor,
    response_ids: Tensor,
    temperature: float,
    teacher_terms: Sequence[HiddenTerm],
    *,
    response_mask: Tensor,
    self_distillation_mask: Tensor,
    totals: Totals,
    old_log_probs: Tensor | None = None,
    rollout_log_probs: Tensor | None = None,
    advantages: Tensor | None = None,
    ref_log_probs: Tensor | None = None,
) -> tuple[Tensor, Metrics]:
    """The algorithm's loss of one micro-batch, from hidden states.

    Args:
        algorithm: says what it compares and how.
        hidden: [B, T, H] of the student, with gradient.
        head: [V, H] of the student, with gradient.
        response_ids: [B, T].
        temperature: of the rollout.
        teacher_terms: hidden states of the rows with a target only, in order: [number of such rows, T, H]. Empty when
            the algorithm needs no teacher or no row has a target.
        response_mask: see `LossInputs`, as all that follow.
    """
    support = algorithm.support
    student = project_student(hidden, head, response_ids, temperature, support)
    teacher = None
    if teacher_terms:
        rows = self_distillation_mask.nonzero(as_tuple=True)[0]
        if len(rows) != teacher_terms[0].hidden.shape[0]:
            raise ValueError(
                f"self_distillation_mask marks {len(rows)} rows with a target, but the teacher's hidden states are of"
                f" {teacher_terms[0].hidden.shape[0]} rows; the teacher runs on exactly the marked rows, in order"
            )
        topk_ids = None if student.topk_ids is None else student.topk_ids[rows]
        taught = project_teacher(teacher_terms, response_ids[rows], temperature, support, topk_ids)
        teacher = _spread(taught, rows, len(response_ids))
    inputs = LossInputs(
        student=student,
        response_mask=response_mask,
        self_distillation_mask=self_distillation_mask,
        totals=totals,
        teacher=teacher,
        old_log_probs=old_log_probs,
        rollout_log_probs=rollout_log_probs,
        advantages=advantages,
        ref_log_probs=ref_log_probs,
    )
    return algorithm.loss(inputs)


def _logits(hidden: Tensor, head: Tensor, temperature: float) -> Tensor:
    """[B, T, V], in float32 at least: bfloat16 logits are off by several percent in probability."""
    if temperature <= 0:
        raise ValueError(f"temperature={temperature}: training needs the positive temperature of the rollouts")
    dtype = torch.promote_types(hidden.dtype, torch.float32)
    return hidden.to(dtype) @ head.to(dtype).T / temperature


def _distribution(logits: Tensor, response_ids: Tensor, topk_ids: Tensor | None, support: Support) -> TokenDistribution:
    log_normalizer = logits.logsumexp(dim=-1, keepdim=True)
    entropy = argmax_ids = None
    if support.needs_entropy or support.needs_entropy_grad:
        with torch.set_grad_enabled(torch.is_grad_enabled() and support.needs_entropy_grad):
            log_probs = logits - log_normalizer
            entropy = -(log_probs.exp() * log_probs).sum(dim=-1)
        argmax_ids = logits.argmax(dim=-1)
    return TokenDistribution(
        log_probs=(logits.gather(-1, response_ids[..., None]) - log_normalizer).squeeze(-1),
        entropy=entropy,
        argmax_ids=argmax_ids,
        topk_ids=topk_ids,
        topk_log_probs=None if topk_ids is None else logits.gather(-1, topk_ids) - log_normalizer,
        all_log_probs=logits - log_normalizer if support.needs_all else None,
    )


def _spread(taught: TokenDistribution, rows: Tensor, num_rows: int) -> TokenDistribution:
    """Put the taught rows at their places among all rows. The others hold zeros: finite, and masked."""
    if len(rows) == num_rows:
        return taught

    def place(values: Tensor) -> Tensor:
        return values.new_zeros(num_rows, *values.shape[1:]).index_copy_(0, rows, values)

    computed = {f.name: values for f in fields(taught) if (values := getattr(taught, f.name)) is not None}
    return TokenDistribution(**{name: place(values) for name, values in computed.items()})
