"""From per-token losses to one number.

The divisors are counted over the whole mini-batch (all micro-batches, all ranks) before the update starts, so the sum
of the parts is the loss of the whole, however it was cut. A divisor is never zero: a mini-batch in which nothing is
taught has loss 0 and gradient 0, not NaN.
"""

from __future__ import annotations

import torch
from torch import Tensor

from verl.protocol import MaskTotals

MODES = ("token-mean", "seq-mean-token-sum", "seq-mean-token-mean", "seq-mean-token-sum-norm")


def token_weights(mask: Tensor, mode: str, totals: MaskTotals, norm_divisor: float) -> Tensor:
    """What each token's loss counts in the mini-batch's loss: every mode is a weighted sum.

    With m the mask, n_b = sum_t m and S the number of rows with n_b > 0, both sums over the whole mini-batch:

    | mode                      | loss                                           |
    |---------------------------|------------------------------------------------|
    | `token-mean`              | sum L m / sum m                                |
    | `seq-mean-token-sum`      | sum L m / S                                    |
    | `seq-mean-token-mean`     | sum_b (sum_t L m / n_b) / S                    |
    | `seq-mean-token-sum-norm` | sum L m / `norm_divisor`                       |

    Args:
        mask: [B, T], 0 or 1; whole rows.
        mode: one of the above; another one is a ValueError.
        totals: sum m and S of the mini-batch.
        norm_divisor: used by `seq-mean-token-sum-norm` only: `loss_scale_factor`, or the longest response.

    Returns:
        [B, T], 0 where the mask is.
    """
    if mode == "token-mean":
        return mask / max(totals.num_tokens, 1)
    if mode == "seq-mean-token-sum":
        return mask / max(totals.num_rows, 1)
    if mode == "seq-mean-token-mean":
        return mask / (mask.sum(dim=1, keepdim=True).clamp(min=1) * max(totals.num_rows, 1))
    if mode == "seq-mean-token-sum-norm":
        return mask / (norm_divisor or 1)
    raise ValueError(f"loss_agg_mode={mode}: must be one of {', '.join(MODES)}")


def weighted_sum(losses: Tensor, weights: Tensor) -> Tensor:
    """Sum of losses times weights, same shape. What stands where the weight is 0 is not read, be it infinite.

    Returns a scalar that keeps its graph even if no token counts (collectives of the backward pass then still run).
    """
    kept = torch.where(weights != 0, losses, torch.zeros((), dtype=losses.dtype, device=losses.device))
    return (kept * weights).sum()


def aggregate(losses: Tensor, mask: Tensor, mode: str, totals: MaskTotals, norm_divisor: float) -> Tensor:
    """Reduce whole rows of per-token losses [B, T] to their share of the mini-batch's loss; see `token_weights`."""
    return weighted_sum(losses, token_weights(mask, mode, totals, norm_divisor))


def count_mask(mask: Tensor) -> MaskTotals:
    """Count a mask that is the whole mini-batch. mask: [B, T], 0 or 1."""
    lengths = (mask > 0).sum(dim=1)
    return MaskTotals(num_tokens=int(lengths.sum()), num_rows=int((lengths > 0).sum()))
