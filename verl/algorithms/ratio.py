"""Importance ratios: how much more likely one policy makes a token than another."""

from __future__ import annotations

from torch import Tensor

_MAX_LOG_RATIO = 20.0


def importance_ratio(log_ratio: Tensor) -> Tensor:
    """exp(log_ratio), any shape; the logarithm is held within +-20, so that one odd token cannot overflow the batch."""
    return log_ratio.clamp(-_MAX_LOG_RATIO, _MAX_LOG_RATIO).exp()
