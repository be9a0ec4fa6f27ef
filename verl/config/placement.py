"""Which rank of which role is on which machine and GPU: arithmetic alone, for checks, dry runs and a run's start."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Seat:
    """Where one rank is."""

    node: int
    """Of the run's machines, from 0."""
    slots: tuple[int, ...]
    """Its GPUs among the run's GPUs of that machine; on a machine without GPU, the one place for a process."""


def in_order(num_ranks: int, slots_per_node: int, slots_per_rank: int = 1) -> tuple[Seat, ...]:
    """Rank after rank, machine after machine: rank r has the slots r*k to r*k + k - 1. No rank spans machines."""
    seats: list[Seat] = []
    for rank in range(num_ranks):
        node, first = divmod(rank * slots_per_rank, slots_per_node)
        seats.append(Seat(node, tuple(range(first, first + slots_per_rank))))
    return tuple(seats)


def spread(num_ranks: int, num_nodes: int, slots_per_node: int) -> tuple[Seat, ...]:
    """In turns on all machines, and there on all slots: processes on a CPU, of which a slot holds any number."""
    return tuple(Seat(rank % num_nodes, (rank // num_nodes % slots_per_node,)) for rank in range(num_ranks))
