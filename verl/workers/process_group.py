"""Joining the ranks of one group: torch.distributed, the device mesh, and where and how this rank computes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

from verl.config.root import ActorRolloutRefConfig, TrainerConfig
from verl.models.device import choose_attention, choose_compute_dtype, choose_device, share_cores
from verl.models.packing import Pack, pack
from verl.models.sequence_parallel import SequenceGroup
from verl.protocol import Row
from verl.single_controller.worker import RankInfo


@dataclass(frozen=True)
class Place:
    """What a rank knows about where it computes, with whom, and in what form its models take rows."""

    rank: int
    world_size: int
    device: torch.device
    compute_dtype: torch.dtype
    attention: str
    mesh: DeviceMesh
    """Of the shards: one dimension over all ranks, or (replicas, ranks of a shard group)."""
    is_owner: bool
    """Whether torch.distributed was started here; an engine in the same process may have been first."""
    remove_padding: bool = True
    share_prefixes: bool = True
    sequence: SequenceGroup = field(default_factory=SequenceGroup)
    """The ranks that run a forward together."""

    @property
    def num_replicas(self) -> int:
        """How many ranks hold the same shard."""
        return self.mesh.size(0) if self.mesh.ndim == 2 else 1

    def own(self, rows: Sequence[Row]) -> list[Row]:
        """The rows of a forward whose hidden states come to this rank: all, unless several ranks run it together."""
        return self.sequence.own(rows)

    def pack(self, rows: Sequence[Row], for_teacher: bool = False) -> Pack:
        """One forward of rows, on this rank's device. Its hidden states are those of `own(rows)`."""
        return pack(
            rows,
            self.device,
            for_teacher=for_teacher,
            remove_padding=self.remove_padding,
            share_prefixes=self.share_prefixes,
            group=self.sequence,
        )


def join(info: RankInfo, trainer: TrainerConfig, config: ActorRolloutRefConfig) -> Place:
    """Start torch.distributed for this rank and choose its device. A collective of the group.

    Both backends are started on a GPU: with offloaded weights some collectives run on host tensors.
    """
    device = choose_device(trainer.device, info.local_rank)
    if device.type == "cuda":
        torch.cuda.set_device(device)
        torch.backends.cuda.matmul.allow_tf32 = False
    else:
        share_cores(min(trainer.n_gpus_per_node, info.world_size))
    if trainer.deterministic:
        torch.use_deterministic_algorithms(True, warn_only=True)
    is_owner = not dist.is_initialized()
    if is_owner:
        backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
        address = f"tcp://{info.master_addr}:{info.master_port}"
        dist.init_process_group(backend, init_method=address, rank=info.rank, world_size=info.world_size)
    compute_dtype = choose_compute_dtype(config.actor.fsdp_config.compute_dtype, device)
    return Place(
        rank=info.rank,
        world_size=info.world_size,
        device=device,
        compute_dtype=compute_dtype,
        attention=choose_attention(device, compute_dtype, config.model.use_remove_padding),
        mesh=shard_mesh(device.type, info.world_size, config.actor.fsdp_config.fsdp_size),
        is_owner=is_owner,
        remove_padding=config.model.use_remove_padding,
        share_prefixes=config.actor.use_prefix_grouper,
        sequence=sequence_group(device.type, info.world_size, config.actor.ulysses_sequence_parallel_size),
    )


def shard_mesh(device_type: str, world_size: int, fsdp_size: int) -> DeviceMesh:
    """The mesh that weights are sharded over: neighbouring ranks hold one copy of them. A collective.

    Args:
        fsdp_size: ranks of one copy, -1: all of them.
    """
    if fsdp_size in (-1, world_size):
        return init_device_mesh(device_type, (world_size,))
    shape = (world_size // fsdp_size, fsdp_size)
    return init_device_mesh(device_type, shape, mesh_dim_names=("replicate", "shard"))


def sequence_group(device_type: str, world_size: int, size: int) -> SequenceGroup:
    """This rank's group of `size` neighbours that run forwards together. A collective."""
    if size == 1:
        return SequenceGroup()
    mesh = init_device_mesh(device_type, (world_size // size, size), mesh_dim_names=("data", "sequence"))
    return SequenceGroup(mesh.get_local_rank("sequence"), size, mesh.get_group("sequence"))


def leave(place: Place) -> None:
    """End what `join` started."""
    if place.is_owner and dist.is_initialized():
        dist.destroy_process_group()
