"""One of four gloo ranks, two by two at a forward, each such pair with a copy: four_ranks.py <folder> <port> <rank>."""

import sys
from pathlib import Path

import torch
from training_case import FOUR_RANKS, TOGETHER, run_case

from verl.single_controller import RankInfo

if __name__ == "__main__":
    folder, port, rank = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    info = RankInfo(rank, 4, rank, "127.0.0.1", port)
    names = ("trust-region-untied", "gspo-entropy-untied")
    results = {name: run_case(name, folder, info, changed=FOUR_RANKS, actor=TOGETHER) for name in names}
    if rank == 3:
        torch.save(results, folder / "four.pt")
