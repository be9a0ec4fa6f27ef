"""From hidden states to what is learnt from them: the one place that knows logits, and it never holds them.

Logits over a vocabulary ([M, V]) are the largest tensor of training by far. Here they exist for a tile of tokens at a
time: multiplied out, read down to a few numbers for each token, and gone (`verl.algorithms.loss_stream` says how the
gradient still comes about).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from verl.algorithms.base import Algorithm, ResponseTokens
from verl.algorithms.head import Head, HiddenTerm, accumulation_dtype, mixed_logits, prepared
from verl.algorithms.loss_stream import LossStream, tile_tokens
from verl.algorithms.softmax_tile import read
from verl.protocol import Metrics, Totals


def policy_loss(
    algorithm: Algorithm,
    hidden: Tensor,
    head: Head,
    tokens: ResponseTokens,
    temperature: float,
    teacher_terms: Sequence[HiddenTerm],
    totals: Totals,
    tokens_per_tile: int | None = None,
) -> tuple[Tensor, Metrics]:
    """The algorithm's loss of one micro-batch, from hidden states.

    Args:
        algorithm: says what it compares and how.
        hidden: [M, H] of the student: what predicts each response token. With gradient.
        head: of the student; its weight may have a gradient.
        tokens: the M response tokens.
        temperature: of the rollout; ValueError unless positive.
        teacher_terms: hidden states of the tokens of taught rows only, in order. Empty when the algorithm needs no
            teacher or no row has a target.
        totals: what the loss is divided by.
        tokens_per_tile: see `tile_tokens`, which decides otherwise. Changes nothing but time and memory.

    Returns:
        A scalar with gradient, also if no token counts (the collectives of the backward then still run), and metrics.
    """
    _check_temperature(temperature)
    num_taught = sum(n for n, taught in zip(tokens.lengths, tokens.is_taught, strict=True) if taught)
    if teacher_terms and teacher_terms[0].hidden.shape[0] != num_taught:
        raise ValueError(
            f"the rows with a target have {num_taught} response tokens, but the teacher's hidden states are of"
            f" {teacher_terms[0].hidden.shape[0]}; the teacher runs on exactly the rows with a target, in order"
        )
    with torch.no_grad():
        stream = LossStream(algorithm, hidden, head, tokens, temperature, teacher_terms, totals, tokens_per_tile)
        loss, metrics = stream.run_coupled() if algorithm.couples_tokens else stream.run()
    weight = head.weight
    return _WithGradients.apply(hidden, weight, loss, stream.hidden_grad, stream.weight_grad()), metrics


@torch.no_grad()
def student_log_probs(hidden: Tensor, head: Head, ids: Tensor, temperature: float) -> Tensor:
    """Log-probs [M] of tokens `ids` [M], in nats, from the hidden states [M, H] that predict them."""
    return score([HiddenTerm(1.0, hidden, head)], ids, temperature).log_probs


@dataclass(frozen=True)
class TokenScores:
    """What `score` returns; all [M]."""

    log_probs: Tensor
    is_most_likely: Tensor
    """Bool: no token is more likely."""
    entropy: Tensor | None = None
    """In nats; None when it was not asked for."""


@torch.no_grad()
def score(terms: Sequence[HiddenTerm], ids: Tensor, temperature: float, needs_entropy: bool = False) -> TokenScores:
    """How likely a model finds tokens.

    Args:
        terms: the summands of its logits; at least one.
        ids: [M].
        temperature: positive, else ValueError.
        needs_entropy: whether the entropy of the distribution at each token is wanted too.
    """
    _check_temperature(temperature)
    hidden, vocab_size = terms[0].hidden, terms[0].head.weight.shape[0]
    terms = [replace(term, head=prepared(term.head)) for term in terms]
    num_buffers = min(len(terms), 2)
    step = tile_tokens(vocab_size, num_buffers, hidden.device)
    dtype = accumulation_dtype(hidden.dtype)
    buffers = [hidden.new_empty(min(step, len(ids)), vocab_size, dtype=dtype) for _ in range(num_buffers)]
    log_probs = hidden.new_empty(len(ids), dtype=dtype)
    is_most_likely = torch.empty(len(ids), dtype=torch.bool, device=hidden.device)
    entropy = torch.empty_like(log_probs) if needs_entropy else None
    for start in range(0, len(ids), step):
        rows = slice(start, min(start + step, len(ids)))
        first, *spare = (buffer[: rows.stop - start] for buffer in buffers)
        values = mixed_logits(terms, rows, temperature, first, spare[0] if spare else first)
        seen, sampled = read(values, needs_entropy), values.gather(1, ids[rows, None])
        log_probs[rows] = seen.log_probs(sampled).squeeze(1)
        is_most_likely[rows] = sampled.squeeze(1) >= seen.largest
        if entropy is not None and seen.entropy is not None:
            entropy[rows] = seen.entropy
    return TokenScores(log_probs, is_most_likely, entropy)


def _check_temperature(temperature: float) -> None:
    if temperature <= 0:
        raise ValueError(f"temperature={temperature}: training needs the positive temperature of the rollouts")


class _WithGradients(torch.autograd.Function):
    """A loss whose gradients are there already: the backward only multiplies them, in place, by its own."""

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, loss: Tensor, hidden_grad: Tensor, weight_grad: Tensor | None
    ) -> Tensor:
        ctx.gradients = (hidden_grad, weight_grad)
        return loss.clone()

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        (grad,) = grad_outputs
        gradients, ctx.gradients = ctx.gradients, None
        hidden_grad, weight_grad = (None if value is None else value.mul_(grad) for value in gradients)
        return hidden_grad, weight_grad, None, None, None
