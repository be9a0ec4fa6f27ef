"""One of two gloo ranks, through every case of `training_case`: python two_ranks.py <folder> <port> <rank>."""

import sys
from itertools import product
from pathlib import Path

import torch
from training_case import (
    CASES,
    SPLIT_CASES,
    TAUGHT,
    TOGETHER,
    VARIANTS,
    VARIED,
    ask,
    make_actor,
    make_config,
    part,
    run_case,
    run_split,
    teacher_of,
    weights_of,
)

from verl.single_controller import RankInfo

if __name__ == "__main__":
    folder, port, rank = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    info = RankInfo(rank, 2, rank, "127.0.0.1", port)
    results = {name: run_case(name, folder, info) for name in CASES}
    for name, variant in product(VARIED, VARIANTS):
        results[name, variant] = run_case(name, folder, info, variant)
    for name, split in SPLIT_CASES:
        results[name, split] = run_split(name, split, folder, info)
    results["asked"] = ask(folder, info, TOGETHER)

    worker = make_actor(make_config(str(folder / "tied"), teacher_update_rate=0.3), info)
    worker.update_policy([part(TAUGHT, worker, 1)])
    worker.save_checkpoint(str(folder / "saved"))
    results["at checkpoint"] = {"weights": weights_of(worker)}
    worker.update_policy([part(TAUGHT, worker, 1)])
    results["after checkpoint"] = {"weights": weights_of(worker), "teacher": teacher_of(worker)}
    worker.export_huggingface(str(folder / "exported"))
    if rank == 0:
        torch.save(results, folder / "results.pt")
