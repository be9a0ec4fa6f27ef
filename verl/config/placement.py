"""Which rank of which role is on which machine and GPU: arithmetic alone, for dry runs and for a run's start.

What is asked for is in `verl.config.slots`; here it is fitted onto what there is. Engines of a split may stand on what
the training ranks leave of their machines. Reward workers need no place.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from verl.config.root import ActorRolloutRefConfig, PPOConfig, TrainerConfig
from verl.config.slots import Block, actor_block, engine_problems, engine_size, is_split, num_engines, rollout_block
from verl.types import InputError


@dataclass(frozen=True)
class Machine:
    """What there is."""

    name: str
    num_slots: int
    """GPUs; on machines without GPUs, places for processes."""


@dataclass(frozen=True)
class Seat:
    """Where one rank is."""

    node: int
    """Of the run's machines, from 0."""
    slots: tuple[int, ...]
    """Its GPUs among the run's GPUs of that machine; on a machine without GPU, the one place for a process."""


@dataclass(frozen=True)
class Placement:
    """The plan."""

    on_gpu: bool
    slots_per_node: tuple[int, ...]
    """What the run takes of each machine."""
    actor: tuple[Seat, ...]
    """By rank; teacher or reference too."""
    rollout: tuple[Seat, ...]
    """By engine."""


def place(
    trainer: TrainerConfig,
    roles: ActorRolloutRefConfig | None = None,
    machines: Sequence[Machine] | None = None,
    on_gpu: bool = True,
) -> Placement:
    """The placement of a run.

    Args:
        trainer: how many training ranks, on how many machines.
        roles: where engines are; None: there are none.
        machines: what there is; None: exactly what is asked for, engines of a split on machines of their own.
        on_gpu: whether slots are GPUs.

    Raises:
        InputError: it does not fit; says what is asked for, what there is, and what is missing.
    """
    actor = actor_block(trainer)
    blocks = [actor, *([rollout_block(roles, trainer)] if roles is not None and is_split(roles) else [])]
    if roles is not None and (problems := engine_problems(roles, trainer, on_gpu)):
        raise InputError("\n".join(problems))
    if machines is None:
        machines = [Machine("", block.slots_per_node) for block in blocks for _ in range(block.num_nodes)]
    first_slots, slots_per_node = _fit(blocks, machines, on_gpu)
    engines: tuple[Seat, ...] = ()
    if roles is not None:
        block = rollout_block(roles, trainer)
        count, size = num_engines(roles, block, on_gpu), engine_size(roles.rollout, block, on_gpu)
        local = in_order(count, block.slots_per_node, size) if on_gpu else spread(count, *_shape(block))
        engines = _moved(local, first_slots[-1])
    ranks = _moved(in_order(actor.num_slots, actor.slots_per_node), first_slots[0])
    return Placement(on_gpu, slots_per_node, ranks, engines)


def place_run(config: PPOConfig, machines: Sequence[Machine] | None, on_gpu: bool) -> Placement:
    """The placement of all roles of a run: see `place`."""
    return place(config.trainer, config.actor_rollout_ref, machines, on_gpu)


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


def _shape(block: Block) -> tuple[int, int]:
    return block.num_nodes, block.slots_per_node


def _moved(seats: Sequence[Seat], first_slots: Sequence[Seat]) -> tuple[Seat, ...]:
    """Seats of a block on the run's machines: `first_slots` says where the block's slots of each machine begin."""
    moved: list[Seat] = []
    for seat in seats:
        begin = first_slots[seat.node]
        moved.append(Seat(begin.node, tuple(begin.slots[0] + slot for slot in seat.slots)))
    return tuple(moved)


def _fit(
    blocks: Sequence[Block], machines: Sequence[Machine], on_gpu: bool
) -> tuple[list[list[Seat]], tuple[int, ...]]:
    """For each machine of each block, the run's number for it and its first slot; and what the run takes of each.

    The block that asks for more of a machine comes first, on the largest machines: what it leaves is then the most that
    can be left. The other one takes the tightest places. So a block finds place whenever there is one.
    """
    free = [machine.num_slots for machine in machines]
    chosen: dict[int, list[int]] = {}
    for index in sorted(range(len(blocks)), key=lambda index: -blocks[index].slots_per_node):
        block, is_first = blocks[index], not chosen
        fitting = [number for number, slots in enumerate(free) if slots >= block.slots_per_node]
        fitting.sort(key=lambda number, rising=not is_first: free[number] if rising else -free[number])
        chosen[index] = fitting[: block.num_nodes]
        for number in chosen[index]:
            free[number] -= block.slots_per_node
    missing = {index: block.num_nodes - len(chosen[index]) for index, block in enumerate(blocks)}
    if any(missing.values()):
        raise InputError(_what_is_missing(blocks, missing, machines, on_gpu))
    numbers: dict[int, int] = {}
    taken: list[int] = []
    first_slots: list[list[Seat]] = []
    for index, block in enumerate(blocks):
        first_slots.append([])
        for number in chosen[index]:
            node = numbers.setdefault(number, len(numbers))
            taken += [0] * (node == len(taken))
            first_slots[index].append(Seat(node, (taken[node],)))
            taken[node] += block.slots_per_node
    return first_slots, tuple(taken)


def _what_is_missing(
    blocks: Sequence[Block], missing: dict[int, int], machines: Sequence[Machine], on_gpu: bool
) -> str:
    unit = "GPU(s)" if on_gpu else "place(s) for CPU processes"
    asked = ", and ".join(block.text(unit) for block in blocks)
    there = ", ".join(f"{machine.name} with {machine.num_slots}" for machine in machines) or "no machine with any"
    lacking = ", and ".join(
        f"{count} machine(s) with {blocks[index].slots_per_node} free {unit} for {blocks[index].what_for}"
        for index, count in missing.items()
        if count
    )
    return (
        f"The run asks for {asked}. There is {there} {unit}. Missing: {lacking}. Ask for what there is, or start the"
        " run on more machines."
    )
