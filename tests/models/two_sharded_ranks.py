"""One of two gloo ranks that accumulate a gradient: python two_sharded_ranks.py <folder> <port> <rank>."""

import sys
from contextlib import nullcontext
from pathlib import Path

import torch
import torch.distributed as dist
from tiny_lms import gradients, rows_of_all_kinds
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor

from verl.config.actor import ModelConfig
from verl.models.full_weights import full_tensor
from verl.models.loading import FullModel, build_modules, read_weights
from verl.models.packing import pack
from verl.models.sharding import shard

CPU = torch.device("cpu")
ROWS = rows_of_all_kinds()
MICRO_BATCHES = {0: [ROWS[:5], ROWS[5:7]], 1: [ROWS[7:], []]}
"""By rank; in the second one rank 1 has nothing to do."""


def loss_of(hidden, head):
    """Uses every state and the head."""
    return (hidden @ head.weight.T).logsumexp(dim=-1).sum() + 0.0 * head.weight.sum()


def load(path, reshard_after_forward):
    model = ModelConfig(path=path)
    state = read_weights(model, path, torch.float32) if dist.get_rank() == 0 else {}
    modules = build_modules(model, path, torch.float32, "packed_sdpa")
    mesh = init_device_mesh("cpu", (2,))
    return shard(FullModel(modules, state), mesh, CPU, torch.float32, reshard_after_forward=reshard_after_forward)


class Gathers:
    """Counts FSDP's gatherings of weights."""

    def __init__(self):
        self.number = 0
        self.original = dist.all_gather_single
        dist.all_gather_single = self

    def __call__(self, *args, **kwargs):
        self.number += 1
        return self.original(*args, **kwargs)

    def since(self):
        number, self.number = self.number, 0
        return number


def accumulate(model, rank):
    """Evaluate once, then both micro-batches, reducing in the last."""
    evaluated = model.evaluate(pack(ROWS, CPU), loss_of)
    for number, rows in enumerate(MICRO_BATCHES[rank]):
        model.set_requires_gradient_sync(number == 1)
        model.set_is_last_backward(number == 1)
        loss = model(pack(rows, CPU), loss_of)
        (2 * loss).backward()  # FSDP averages over ranks
    return evaluated


def case(path, reshard_after_forward, is_kept, rank, gathers):
    model = load(path, reshard_after_forward)
    gathers.since()
    with model.kept_gathered() if is_kept else nullcontext():
        evaluated = accumulate(model, rank)
    found = {"gathers": gathers.since(), "evaluated": evaluated}
    assert all(isinstance(parameter, DTensor) for parameter in model.parameters())
    found["gradients"] = {name: full_tensor(g, CPU).clone() for name, g in gradients(model.lm).items()}
    # The weights change: whatever was gathered before must not be used again.
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(0.5)
    found["after a change"] = model.evaluate(pack(ROWS, CPU), loss_of)
    # As a teacher: gathered once for all evaluations, its head at hand in between.
    gathers.since()
    with model.kept_gathered(), model.kept_gathered():
        found["teacher"] = [model.evaluate(pack(rows, CPU), loss_of) for rows in (ROWS[:3], ROWS[3:])]
        found["head"] = model.as_head(model.head.weight).weight.detach().clone()
    found["teacher gathers"] = gathers.since()
    return found


if __name__ == "__main__":
    folder, port, rank = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    gathers = Gathers()
    results = {
        (tied, reshards, kept): case(str(folder / tied), reshards, kept, rank, gathers)
        for tied in ("tied", "untied")
        for reshards in (True, False)
        for kept in (True, False)
    }
    if rank == 0:
        torch.save(results, folder / "results.pt")
    dist.destroy_process_group()
