"""One of two GPUs that run a forward together, in bfloat16: split_gpus.py <folder> <port> <rank>."""

import sys
from pathlib import Path

import torch
import torch.distributed as dist
from split_ranks import ROWS, run, shared_among
from tiny_lms import tiny

from verl.models.device import choose_attention
from verl.workers.process_group import sequence_group

if __name__ == "__main__":
    folder, port, rank = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    device = torch.device("cuda", rank)
    torch.cuda.set_device(device)
    backend = "cpu:gloo,cuda:nccl"
    dist.init_process_group(backend, init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    lm = tiny("mistral", choose_attention(device, torch.bfloat16)).to(device, torch.bfloat16)
    found = run(lm, shared_among(ROWS, 2), sequence_group("cuda", 2, 2), device)
    if rank == 1:
        torch.save(found, folder / "results.pt")
    dist.destroy_process_group()
