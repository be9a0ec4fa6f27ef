"""One of four gloo ranks that run forwards together, two or four at a time: split_ranks.py <folder> <port> <rank>."""

import sys
import types
from dataclasses import replace
from pathlib import Path

import torch
import torch.distributed as dist
from tiny_lms import gradients, plain_varlen, readout, rows_of_all_kinds, tiny

from verl.config.forwards import ForwardLimits
from verl.models.packing import pack
from verl.models.policy_model import PolicyModel
from verl.protocol import Row, plan_mini_batch
from verl.workers.process_group import sequence_group

CPU = torch.device("cpu")
ROWS = [replace(row, index=index) for index, row in enumerate(rows_of_all_kinds())]
PACKS = {"all kinds": ROWS, "an even number of tokens": ROWS[:6], "one row": ROWS[8:9], "no row": []}
WAYS = {
    # name: (family, attention, whether layers are computed anew in the backward)
    "heads in pairs": ("qwen3", "packed_sdpa", True),
    "a window": ("mistral", "packed_varlen", False),
    "windows and a soft cap": ("gemma2", "packed_sdpa", False),
    "one key head": ("one key head", "packed_varlen", True),
}
SIZES = (2, 4)


def new_model(way: str):
    family, attention, is_anew = WAYS[way]
    lm = tiny(family, attention)
    if is_anew:
        lm.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    return lm


def shared_among(rows: list[Row], num_ranks: int) -> list[Row]:
    """The rows with the ranks of their losses, as the driver plans them; the same set in another order."""
    (first, *_) = plan_mini_batch(rows, num_ranks, ForwardLimits(num_ranks=num_ranks))
    return [row for rows in first.micro_batches for row in rows]


def readout_of(rows: list[Row], hidden: torch.Tensor) -> torch.Tensor:
    """A sum over rows, each of which weighs its own states."""
    parts = hidden.split([len(row.response_ids) for row in rows]) if rows else ()
    return sum((readout((1 + row.index) * part) for row, part in zip(rows, parts, strict=True)), 0.0 * hidden.sum())


def run(lm, rows: list[Row], group, device: torch.device = CPU) -> dict:
    """States by row, the readout and gradients: added up over the group."""
    own = group.own(rows)
    hidden = PolicyModel(lm)(pack(rows, device, group=group), lambda hidden, _: hidden)
    loss = readout_of(own, hidden)
    loss.backward()
    parts = hidden.detach().split([len(row.response_ids) for row in own]) if own else ()
    states = {row.index: part for row, part in zip(own, parts, strict=True)}
    found = {"loss": loss.detach(), "gradients": {name: g.clone() for name, g in gradients(lm).items()}}
    everyones = [states]
    if group.size > 1:
        for value in (found["loss"], *found["gradients"].values()):
            dist.all_reduce(value, group=group.group)
        everyones = [{}] * group.size
        dist.all_gather_object(everyones, states, group=group.group)
    assert sum(map(len, everyones)) == len(rows)
    return found | {"states": {index: part for states in everyones for index, part in states.items()}}


if __name__ == "__main__":
    folder, port, rank = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=4)
    sys.modules["flash_attn"] = types.ModuleType("flash_attn")
    sys.modules["flash_attn"].flash_attn_varlen_func = plain_varlen
    results = {}
    for size in SIZES:
        group = sequence_group("cpu", 4, size)
        for way in WAYS:
            for name, rows in PACKS.items():
                results[way, size, name] = run(new_model(way), shared_among(rows, size), group)
    if rank == 3:
        torch.save(results, folder / "results.pt")
    dist.destroy_process_group()
