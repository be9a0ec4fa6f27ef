"""The part of a dry run that says which processes there are, and on which machine and GPU each of them is.

It is the placement that the run would be started with (`verl.config.placement`), here for the machines that are asked
for, because a dry run does not ask the cluster what there is. A run on one machine is held against this one.
"""

from __future__ import annotations

import socket
from collections.abc import Iterable, Sequence

from verl.config import PPOConfig
from verl.config.checks import has_copy_for_reference, has_reference, has_teacher
from verl.config.placement import Machine, Placement, Seat, place_run
from verl.config.slots import engines_sleep, is_split
from verl.types import InputError


def placement_lines(config: PPOConfig, on_gpu: bool, num_gpus: int) -> list[tuple[str, str]]:
    """Roles, then machines.

    Args:
        on_gpu: where the run would compute.
        num_gpus: GPUs of this machine.
    """
    trainer, roles = config.trainer, config.actor_rollout_ref
    placement = place_run(config, None, on_gpu)
    found = f"trainer.device={trainer.device}; this machine has {num_gpus or 'no'} GPU(s)"
    unit = "GPU" if on_gpu else "process"
    ranks = (
        f"{len(placement.actor)} FSDP2 ranks ({trainer.nnodes} node(s) x {trainer.n_gpus_per_node}), one {unit} each"
        + ranks_text(config, len(placement.actor))
    )
    lines = [("device", f"{'cuda' if on_gpu else 'cpu'} ({found})"), ("actor", ranks)]
    if has_teacher(config) or has_reference(config):
        second = "teacher" if has_teacher(config) else "reference"
        lines.append((second, "in the actor's ranks, sharded like it"))
    if has_teacher(config) and has_reference(config):
        frozen = "in the actor's ranks, sharded like it" if has_copy_for_reference(config) else "the teacher's weights"
        lines.append(("frozen model", frozen))
    size = len(placement.rollout[0].slots)
    where = f"{size} GPU(s) each" if on_gpu else "one process each"
    engines = f"{len(placement.rollout)} {roles.rollout.name} engine(s), {where}, {_sharing(config, on_gpu)}"
    lines += [("rollout", engines), ("reward", f"{config.reward_model.num_workers} process(es), on any machine")]
    return lines + node_lines(placement)


def ranks_text(config: PPOConfig, ranks: int) -> str:
    """What is unusual in how training ranks share weights and forwards."""
    actor = config.actor_rollout_ref.actor
    shards, together = actor.fsdp_config.fsdp_size, actor.ulysses_sequence_parallel_size
    text = f"; {ranks // shards} copies of the weights, each in {shards} shard(s)" if 0 < shards < ranks else ""
    return text + (f"; {together} ranks run a forward together" if together > 1 else "")


def problems_here(config: PPOConfig, num_gpus: int) -> list[str]:
    """Why a run on one machine with GPUs does not fit on this one, if it has GPUs at all."""
    if (
        not num_gpus
        or config.trainer.device == "cpu"
        or max(config.trainer.nnodes, config.actor_rollout_ref.rollout.nnodes) > 1
    ):
        return []
    try:
        place_run(config, [Machine(socket.gethostname(), num_gpus)], on_gpu=True)
    except InputError as error:
        return [str(error)]
    return []


def node_lines(placement: Placement) -> list[tuple[str, str]]:
    """One line for each machine: which slots hold which ranks."""
    unit = "GPU" if placement.on_gpu else "slot"
    lines: list[tuple[str, str]] = []
    for node in range(len(placement.slots_per_node)):
        roles = {"actor rank": placement.actor, "engine": placement.rollout}
        held = [
            f"{_numbers(name, on_it)} on {_numbers(unit, _slots(seats, on_it))}"
            for name, seats in roles.items()
            if (on_it := _ranks_on(seats, node))
        ]
        lines.append((f"node {node}", ", ".join(held)))
    return lines


def _sharing(config: PPOConfig, on_gpu: bool) -> str:
    roles = config.actor_rollout_ref
    if is_split(roles):
        return (
            f"apart from the actor ({roles.rollout.nnodes} node(s) of their own, or what the actor's nodes have left)"
        )
    if not on_gpu:
        return "beside the actor"
    sleep = engines_sleep(roles, config.trainer, on_gpu)
    return f"shared with the actor{', asleep during the update' if sleep else ''}"


def _ranks_on(seats: Sequence[Seat], node: int) -> list[int]:
    return [rank for rank, seat in enumerate(seats) if seat.node == node]


def _slots(seats: Sequence[Seat], ranks: Iterable[int]) -> list[int]:
    return sorted({slot for rank in ranks for slot in seats[rank].slots})


def _numbers(name: str, numbers: Sequence[int]) -> str:
    """`engine 3`, `engines 4-7`, or `engines 0, 2`."""
    if len(numbers) == 1:
        return f"{name} {numbers[0]}"
    first, last = numbers[0], numbers[-1]
    is_range = list(numbers) == list(range(first, last + 1))
    return f"{name}s {f'{first}-{last}' if is_range else ', '.join(map(str, numbers))}"
