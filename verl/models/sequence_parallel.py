"""Ulysses: several ranks run the tokens of one forward together (Jacobs et al. 2023, arXiv 2309.14509).

The packed line is cut into equal parts, one for each rank of a group. Embedding, norms, projections and MLP look at one
token at a time, so a rank runs them for its part alone; that is what makes long rows fit. Attention needs all tokens of
a row, but each head is for itself: before it, a rank gives away its tokens of the others' heads and gets all tokens of
its own heads; after it, the way back. A rank so runs the same attention as without a split, over whole rows and shared
beginnings, with fewer heads.

The output head is not run by all ranks of a group either: hidden states go to the rank that computes their row's part
of the loss (`Row.loss_rank`), whole rows, because losses may couple the tokens of a row. All of it is differentiable,
and what a rank adds to a gradient is added up by FSDP, like any other rank's.

Nothing here is a dataclass: FSDP rebuilds dataclasses among the arguments of a forward.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn import functional

from verl.protocol import Row


class SequenceGroup:
    """The ranks that run a forward together, as one of them sees it.

    Args:
        rank: of this process in the group.
        size: number of ranks.
        group: their process group; None for a single rank, which never uses it.
    """

    def __init__(self, rank: int = 0, size: int = 1, group: dist.ProcessGroup | None = None) -> None:
        self.rank = rank
        self.size = size
        self.group = group

    def own(self, rows: Sequence[Row]) -> list[Row]:
        """The rows of a forward whose hidden states this rank gets."""
        return [row for row in rows if row.loss_rank == self.rank]


class TokenSplit:
    """One packed line over a group: rank r runs tokens r * length to (r + 1) * length, padded at the end.

    Args:
        group: the ranks.
        num_tokens: N of the line.
    """

    def __init__(self, group: SequenceGroup, num_tokens: int) -> None:
        self.group = group
        self.num_tokens = num_tokens
        self.length = -(-num_tokens // group.size)

    def part(self, values: np.ndarray) -> np.ndarray:
        """This rank's part [1, length] of numbers [1, N] of the tokens; padding is 0."""
        missing = self.length * self.group.size - self.num_tokens
        start = self.group.rank * self.length
        return np.pad(values, ((0, 0), (0, missing)))[:, start : start + self.length]

    def to_heads(self, query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """From the own tokens of all heads to all tokens of the own heads; one exchange.

        Key heads that are no multiple of the ranks are repeated until they are: each rank then holds a copy of those
        its query heads look at.

        Args:
            query: [1, heads, length, D].
            key: [1, kv_heads, length, D].
            value: [1, kv_heads, length, D_v].

        Returns:
            [1, heads / size, N, D], and keys and values likewise.

        Raises:
            ValueError: the ranks do not divide the query heads.
        """
        size, (num_heads, num_kv_heads) = self.group.size, (query.shape[1], key.shape[1])
        if num_heads % size:
            raise ValueError(f"{num_heads} attention heads cannot be spread evenly over {size} sequence-parallel ranks")
        repeats = size // math.gcd(num_kv_heads, size)
        if repeats > 1:
            key, value = (part.repeat_interleave(repeats, dim=1) for part in (key, value))
        by_rank = [
            part[0].unflatten(0, (size, -1)).transpose(1, 2) for part in (query, key, value)
        ]  # [size, length, heads of the rank, D] each
        widths = [part.shape[2] * part.shape[3] for part in by_rank]
        sent = torch.cat([part.flatten(2) for part in by_rank], dim=2)
        found = _exchange(sent, [1] * size, [1] * size, self.group).flatten(0, 1)[: self.num_tokens]
        query, key, value = (
            mine.unflatten(1, part.shape[2:]).transpose(0, 1)[None]
            for mine, part in zip(found.split(widths, dim=1), by_rank, strict=True)
        )
        return query, key, value

    def to_tokens(self, result: Tensor) -> Tensor:
        """The way back: from all tokens of the own heads [1, N, heads / size, D] to [1, length, heads, D]."""
        size = self.group.size
        padded = functional.pad(result[0], (0, 0, 0, 0, 0, self.length * size - self.num_tokens))
        sent = padded.unflatten(0, (size, self.length))
        found = _exchange(sent, [1] * size, [1] * size, self.group)
        return found.transpose(0, 1).flatten(1, 2)[None]


class StateRoutes:
    """How hidden states travel from the ranks that ran their tokens to those that use them.

    Args:
        split: of the line.
        wanted: for each rank of the group the indices into the line of the states it gets, in its order.
        device: of the states.
    """

    def __init__(self, split: TokenSplit, wanted: Sequence[np.ndarray], device: torch.device) -> None:
        self.group, rank, length = split.group, split.group.rank, split.length
        sent = [places[places // length == rank] - rank * length for places in wanted]
        self.sent_counts = [len(places) for places in sent]
        self.sent = torch.from_numpy(np.concatenate(sent)).to(device)
        sources = wanted[rank] // length
        self.received_counts = np.bincount(sources, minlength=self.group.size).tolist()
        # They arrive in the order of their sources; `places` puts them back into the order they are wanted in.
        places = np.empty(len(sources), dtype=np.int64)
        places[np.argsort(sources, kind="stable")] = np.arange(len(sources))
        self.places = torch.from_numpy(places).to(device)

    def deliver(self, hidden: Tensor) -> Tensor:
        """From the own part of the line [length, H] to the states that this rank wants [M, H]."""
        sent = functional.embedding(self.sent, hidden)
        return functional.embedding(self.places, _exchange(sent, self.sent_counts, self.received_counts, self.group))


def _exchange(values: Tensor, sent: list[int], received: list[int], group: SequenceGroup) -> Tensor:
    """Give the first `sent[0]` entries of `values` to rank 0 of the group, and so on; what came, in rank order."""
    return _Exchange.apply(values, sent, received, group.group)


class _Exchange(torch.autograd.Function):
    """`all_to_all_single` with its gradient, which goes the same way back. torch's own is not public (and its public
    predecessor deprecated)."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, sent: list[int], received: list[int], group: dist.ProcessGroup) -> Tensor:
        ctx.way_back = (received, sent, group)
        return _all_to_all(values, sent, received, group)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        return _all_to_all(grad_outputs[0], *ctx.way_back), None, None, None


def _all_to_all(values: Tensor, sent: list[int], received: list[int], group: dist.ProcessGroup) -> Tensor:
    found = values.new_empty(sum(received), *values.shape[1:])
    dist.all_to_all_single(found, values.contiguous(), received, sent, group=group)
    return found
