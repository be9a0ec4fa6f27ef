"""Importance ratios: how much more likely one policy makes a token than another."""

from __future__ import annotations

from torch import Tensor

_MAX_LOG_RATIO = 20.0


def importance_ratio(log_ratio: Tensor) -> Tensor:
    """exp(log_ratio), any shape; the logarithm is held within +-20, so that one odd token cannot overflow the batch."""
    return log_ratio.clamp(-_MAX_LOG_RATIO, _MAX_LOG_RATIO).exp()


def bounded_weight(ratio: Tensor, bound: float, coef: float = 1.0) -> Tensor:
    """1 + coef * (min(ratio, bound) - 1), any shape: what a token's loss is multiplied by.

    Args:
        ratio: importance ratios.
        bound: the largest ratio that counts in full.
        coef: share of the correction, in [0, 1]; 1 is the bounded ratio itself (to the last bit), 0 no correction.
    """
    weight = ratio.clamp(max=bound)
    return weight if coef == 1.0 else 1.0 + coef * (weight - 1.0)
