"""One of two gloo ranks, through every case of `spoilt_case`: python spoilt_ranks.py <folder> <port> <rank>."""

import sys
from pathlib import Path

import torch
from spoilt_case import SHARED, SHARING, SPOILT, run_healthy, run_poisoned_weights, run_spoilt

from verl.single_controller import RankInfo

if __name__ == "__main__":
    folder, port, rank = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    info = RankInfo(rank, 2, rank, "127.0.0.1", port)
    results = {name: run_spoilt(name, folder, info) for name in SPOILT}
    results["healthy"] = run_healthy(folder, info)
    results |= {of: run_poisoned_weights(of, folder, info) for of in ("student", "teacher")}
    results |= {f"{name}, shared": run_spoilt(name, folder, info, SHARING) for name in SHARED}
    results |= {f"{of}, shared": run_poisoned_weights(of, folder, info, SHARING) for of in ("student", "teacher")}
    torch.save(results, folder / f"spoilt{rank}.pt")
