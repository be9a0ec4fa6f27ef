"""Metrics as sums and counts, so that they can be added over micro-batches and ranks before the mean is taken.

Each function moves all its numbers off the device at once: one wait instead of one for each metric.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from verl.protocol import MaskTotals, Metrics


def token_metrics(values: Mapping[str, Tensor], mask: Tensor) -> Metrics:
    """Means over the tokens of a mask: name -> (sum over masked tokens, number of them).

    Args:
        values: name -> [B, T].
        mask: [B, T], 0 or 1.
    """
    is_kept = mask > 0
    sums = [torch.where(is_kept, value.detach(), 0.0).sum() for value in values.values()]
    *totals, count = torch.stack([*(total.double() for total in sums), is_kept.sum().double()]).tolist()
    return {name: (total, count) for name, total in zip(values, totals, strict=True)}


def mini_batch_metrics(values: Mapping[str, Tensor], mask: Tensor, totals: MaskTotals) -> Metrics:
    """Numbers that are added over the parts of a mini-batch (losses, counts) and averaged over mini-batches.

    The count is the part's share of the mini-batch's masked tokens, so the counts of one mini-batch add up to 1.

    Args:
        values: name -> scalar.
        mask: [B, T] of this part.
        totals: of the same mask over the mini-batch.
    """
    *sums, count = torch.stack([*(v.detach().double() for v in values.values()), (mask > 0).sum().double()]).tolist()
    share = count / max(totals.num_tokens, 1)
    return {name: (total, share) for name, total in zip(values, sums, strict=True)}
