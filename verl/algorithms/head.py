"""The output head: how hidden states become logits, and how gradients of logits go back.

The head is always a plain, whole tensor here; who shards models gathers it first. Logits are float32 whatever the type
of the model: in bfloat16 they are off by several percent in probability.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch
from torch import Tensor


@dataclass(frozen=True)
class Head:
    """logits = scale * hidden @ weight^T, and then, with a soft cap c (Gemma 2), c * tanh(logits / c)."""

    weight: Tensor
    """[V, H]"""
    scale: float = 1.0
    soft_cap: float | None = None

    def detach(self) -> Head:
        """The same head without gradient."""
        return replace(self, weight=self.weight.detach())


class HasTextConfig(Protocol):
    """What `head_map` needs of a model's configuration; transformers' `PretrainedConfig` has it."""

    def get_text_config(self) -> Any:
        """The configuration of the language model in it: itself, unless the model also sees or hears."""
        ...


def head_map(config: HasTextConfig) -> tuple[float, float | None]:
    """How a model's logits differ from hidden states times matrix: a factor and a soft cap, as in `Head`.

    Families name it differently: Granite divides by `logits_scaling`, Cohere multiplies by `logit_scale`, Falcon-H1 by
    `lm_head_multiplier`; Gemma caps at `final_logit_softcapping`. `verl.models.loading` checks the numbers.
    """
    text = config.get_text_config()

    def number(name: str) -> float:
        return getattr(text, name, None) or 1.0

    scale = number("logit_scale") * number("lm_head_multiplier") / number("logits_scaling")
    return scale, getattr(text, "final_logit_softcapping", None)


@dataclass(frozen=True)
class HiddenTerm:
    """One summand of a model's logits: weight * head(hidden). An EMA teacher has one, a trust region two."""

    weight: float
    hidden: Tensor
    """[M, H]"""
    head: Head


_SLAB_ROWS = 16_384


def accumulation_dtype(dtype: torch.dtype) -> torch.dtype:
    """The type in which logits and sums of gradients are kept: float32, or float64 for a float64 model."""
    return torch.promote_types(dtype, torch.float32)


def prepared(head: Head) -> Head:
    """The head as the products below want it: a CPU multiplies float32, so a lower type is converted once for all."""
    dtype = accumulation_dtype(head.weight.dtype)
    if head.weight.is_cuda or head.weight.dtype == dtype:
        return head
    return replace(head, weight=head.weight.to(dtype))


def product(a: Tensor, b: Tensor, out: Tensor) -> Tensor:
    """out = a @ b; low precision factors are multiplied as they are (CUDA) and summed in the type of `out`."""
    if a.dtype == b.dtype == out.dtype:
        return torch.mm(a, b, out=out)
    if a.dtype == b.dtype and a.is_cuda:
        return torch.mm(a, b, out_dtype=out.dtype, out=out)
    return torch.mm(a.to(out.dtype), b.to(out.dtype), out=out)


def accumulate_(total: Tensor, a: Tensor, b: Tensor, scale: float) -> None:
    """total += scale * a @ b, all [V, H] in the end; low precision goes in slabs, so that there is no second total."""
    if a.dtype == total.dtype:
        total.addmm_(a, b, alpha=scale)
        return
    for slab, rows in zip(total.split(_SLAB_ROWS), a.split(_SLAB_ROWS), strict=True):
        slab.add_(torch.mm(rows, b, out_dtype=total.dtype), alpha=scale)


def logits(
    term: HiddenTerm, rows: slice | Tensor, temperature: float, out: Tensor, slope: Tensor | None = None
) -> Tensor:
    """Logits over temperature of some rows of a term, without its weight.

    Args:
        term: hidden states and a prepared head.
        rows: which hidden states.
        temperature: positive.
        out: [n, V] filled and returned.
        slope: [n, V] if given, filled with the derivative of the result by scale * hidden @ weight^T / temperature
            (1 without a soft cap).
    """
    head = term.head
    product(term.hidden[rows], head.weight.T, out)
    if head.soft_cap is None:
        if slope is not None:
            slope.fill_(1.0)
        return out if head.scale == temperature else out.mul_(head.scale / temperature)
    out.mul_(head.scale / head.soft_cap).tanh_()
    if slope is not None:
        torch.mul(out, out, out=slope).neg_().add_(1.0)
    return out.mul_(head.soft_cap / temperature)


def mixed_logits(
    terms: Sequence[HiddenTerm], rows: slice | Tensor, temperature: float, out: Tensor, spare: Tensor
) -> Tensor:
    """Logits over temperature [n, V] of a weighted sum of terms, in `out`; `spare` [n, V] holds a second summand."""
    first, *others = terms
    logits(first, rows, temperature, out)
    if first.weight != 1.0:
        out.mul_(first.weight)
    for term in others:
        out.add_(logits(term, rows, temperature, spare), alpha=term.weight)
    return out
