"""FSDP2: cut a model over the ranks and fill the shards from rank 0.

Every decoder layer is a unit of its own; embedding, final norm and head belong to the root, so that the head is
gathered during the root's forward (and tied weights are in one unit, which FSDP requires).
"""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import CPUOffloadPolicy, MixedPrecisionPolicy, OffloadPolicy, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from verl.models.loading import FullModel
from verl.models.policy_model import PolicyModel


def shard(
    full: FullModel,
    mesh: DeviceMesh,
    device: torch.device,
    compute_dtype: torch.dtype,
    offload: bool = False,
    reshard_after_forward: bool = True,
) -> PolicyModel:
    """Cut a model over the ranks of `mesh` and give every rank its part of rank 0's weights. A collective.

    Args:
        full: modules and, on rank 0, weights.
        mesh: over all ranks; one rank is fine. Of two dimensions, each row of ranks holds a copy of the weights in
            shards, and gradients are averaged over all ranks.
        device: where this rank computes.
        compute_dtype: type of forward and backward; gradients are reduced in float32.
        offload: keep the shards in host memory (no effect on a CPU, where they are there anyway).
        reshard_after_forward: free a layer's gathered weights between its forward and its backward.
    """
    model = PolicyModel(full.lm, reshard_after_forward)
    offload = offload and device.type == "cuda"
    options = {
        "mesh": mesh,
        "mp_policy": MixedPrecisionPolicy(param_dtype=compute_dtype, reduce_dtype=torch.float32),
        "offload_policy": CPUOffloadPolicy() if offload else OffloadPolicy(),
    }
    # A CPU does not compute while it gathers: a model whose weights stay gathered anyway is then better one unit.
    for layer in decoder_layers(full.lm) if reshard_after_forward or device.type == "cuda" else []:
        fully_shard(layer, reshard_after_forward=reshard_after_forward, **options)
    # The backward starts with the root's head: gathering it anew would only cost.
    fully_shard(model, reshard_after_forward=False, **options)
    model.to_empty(device="cpu" if offload else device)
    for module in model.modules():
        for name, buffer in module.named_buffers(recurse=False):  # offloading is for weights: buffers stay at work
            setattr(module, name, torch.empty_like(buffer, device=device))
    full.lm.tie_weights()
    _fill(model, full.state, device)
    return model


def decoder_layers(lm: nn.Module) -> list[nn.Module]:
    """The repeated blocks of a transformer: the members of its longest ModuleList."""
    lists = [module for module in lm.modules() if isinstance(module, nn.ModuleList)]
    return list(max(lists, key=len)) if lists else []


@torch.no_grad()
def _fill(model: PolicyModel, state: dict[str, Tensor], device: torch.device) -> None:
    """Copy rank 0's weights into the shards, and its buffers to every rank, one tensor at a time."""
    is_source = dist.get_rank() == 0
    for name, target in [*model.named_parameters(), *model.named_buffers()]:
        if is_source:
            value = state[name.removeprefix("lm.")].to(device, target.dtype).contiguous()
        else:
            value = torch.empty(target.shape, dtype=target.dtype, device=device)
        if isinstance(target, DTensor):
            value = distribute_tensor(value, target.device_mesh, target.placements)
            target.to_local().copy_(value.to_local())
        else:
            dist.broadcast(value, src=0)
            target.copy_(value)
