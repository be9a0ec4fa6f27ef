"""Estimates of KL(policy || reference) from the log-probs of sampled tokens.

With d = log p - log q at tokens drawn from p (Schulman, "Approximating KL divergence", 2020):

| name              | value          | as a number                 | as a loss                                    |
|-------------------|----------------|-----------------------------|----------------------------------------------|
| `k1`, `kl`        | d              | unbiased, may be negative   | gradient is 0 in expectation: do not use     |
| `abs`             | abs(d)         | biased                      |                                              |
| `k2`, `mse`       | d^2 / 2        | biased, low variance        | gradient is that of the KL                   |
| `k3`, `low_var_kl`| exp(-d) - 1 + d| unbiased, never negative    | gradient is that of KL(reference || policy)  |
"""

from __future__ import annotations

import torch
from torch import Tensor

_ALIASES = {"kl": "k1", "mse": "k2", "low_var_kl": "k3"}
_MAX_EXPONENT = 20.0
_MAX_K3 = 10.0  # one token that the reference finds absurd must not drown the batch


def kl_estimate(log_probs: Tensor, ref_log_probs: Tensor, kind: str) -> Tensor:
    """Per-token estimate in nats; shapes [B, T]. k3 is bounded by 10. An unknown kind is a ValueError."""
    difference = log_probs - ref_log_probs
    match _ALIASES.get(kind, kind):
        case "k1":
            return difference
        case "abs":
            return difference.abs()
        case "k2":
            return difference.square() / 2
        case "k3":
            negative = (-difference).clamp(-_MAX_EXPONENT, _MAX_EXPONENT)
            return (torch.expm1(negative) - negative).clamp(max=_MAX_K3)
    raise ValueError(f"KL estimator {kind!r}: must be one of k1 (kl), abs, k2 (mse), k3 (low_var_kl)")
