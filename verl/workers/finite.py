"""Numbers that are nan or inf: a sign that costs nothing in every update, and the search for their samples after it.

A rank multiplies what it has seen by 0: that is 0, or nan if anything was not finite. The sum joins the gradient's
norm, which all ranks learn anyway, so that they agree on skipping an update without one more collective. Only then is
it worth another forward to find out which samples it was.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from verl.algorithms.base import ResponseTokens
from verl.protocol import Row

GIVEN = ("rollout_log_probs", "old_log_probs", "ref_log_probs", "advantages")
"""What comes with a row and enters its loss: names of `Row` and of `ResponseTokens`."""


@dataclass(frozen=True)
class NonFinite:
    """One row's numbers that are nan or inf."""

    index: int
    """`Row.index`: the place in the rollout batch."""
    what: str
    """Of the row's fields its name, else what was computed from it."""


def spoilt(loss: Tensor, tokens: ResponseTokens) -> Tensor:
    """0 where the loss and all that was given are finite, else nan; a scalar on the device, nothing waits for it."""
    given = [values for name in GIVEN if (values := getattr(tokens, name)) is not None]
    parts = [torch.where(tokens.mask > 0, values * 0, 0.0).sum() for values in given]
    return torch.stack([loss.detach().float() * 0, *parts]).sum()


def spoilt_rows(rows: Sequence[Row]) -> list[NonFinite]:
    """Given numbers that are not finite, where the policy wrote the token."""
    return [
        NonFinite(row.index, name)
        for row in rows
        for name in GIVEN
        if (values := getattr(row, name))
        and not all(math.isfinite(value) for value, bit in zip(values, row.response_mask, strict=True) if bit)
    ]


def spoilt_results(
    packs: Sequence[Sequence[Row]],
    own: Callable[[Sequence[Row]], list[Row]],
    compute: Callable[[Sequence[Row]], Tensor],
    what: str,
) -> list[NonFinite]:
    """Rows of which a forward makes numbers that are not finite.

    Args:
        packs: the rows of each forward.
        own: those of a pack whose numbers this rank gets.
        compute: numbers of their response tokens, [M] or [M, H], rows one after another.
        what: they are.
    """
    found: list[NonFinite] = []
    for rows in packs:
        mine, numbers = own(rows), compute(rows)
        parts = numbers.split([len(row.response_ids) for row in mine]) if mine else ()
        found += [
            NonFinite(row.index, what)
            for row, part in zip(mine, parts, strict=True)
            if not bool(torch.isfinite(part).all())
        ]
    return found
