"""Token sequences that begin alike: what a forward that runs every distinct prefix once has to run, and in which order.

In a causal model a token's state depends on the tokens up to it and on nothing else, so that sequences with a common
beginning share the states of that beginning: the responses of a group share their prompt, and whatever of each other.
Sorted, every sequence shares its longest common beginning with the one before it, and only the rest is new. The driver
plans with these numbers and `verl.models.packing` packs by them.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import compress, count
from operator import ne


def prefix_order(sequences: Sequence[list[int]]) -> tuple[list[int], list[int]]:
    """Sort sequences so that common beginnings are neighbours.

    Returns:
        order: indices of the sequences, lexicographically (equal ones in the order given).
        shared: for each place of that order, how many tokens the sequence there has in common, from the start on, with
            the one before it. No earlier sequence has more in common with it, so that the tokens of any consecutive
            part of the order are `len(first) + sum(len(s) - shared(s))` over the others.
    """
    order = sorted(range(len(sequences)), key=sequences.__getitem__)
    shared = [0] * len(order)
    for place in range(1, len(order)):
        before, here = sequences[order[place - 1]], sequences[order[place]]
        # The first difference; sorted, only `before` can be the whole beginning of the other.
        shared[place] = next(compress(count(), map(ne, before, here)), len(before))
    return order, shared


def num_packed_tokens(sequences: Sequence[list[int]]) -> int:
    """Number of distinct non-empty prefixes: the tokens of one forward that shares all beginnings."""
    return sum(map(len, sequences)) - sum(prefix_order(sequences)[1])
