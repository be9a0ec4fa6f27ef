"""One side of a benchmark: the training ranks alone, updating on a batch that is the same every time.

Question: {"rows": arguments of `batch_rows`, "repeats": n}. Answer: seconds of each update, and for each rank's process
the resident memory before and its peak during them. Started by step.py and scaling.py.
"""

import json
import os
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace

import psutil
from sides import Channel
from workload import batch_rows, quickstart

from verl.trainer.rl_trainer import RLTrainer
from verl.trainer.roles import ActorRole, sft_workers

MANY_STEPS = 1_000_000


def main():
    channel = Channel()
    config = quickstart(json.loads(sys.argv[1]))
    roles_config = config.actor_rollout_ref
    with (
        tempfile.TemporaryDirectory() as folder,
        sft_workers(roles_config, config.trainer, MANY_STEPS, Path(folder)) as actor,
    ):
        no_data, no_engines = SimpleNamespace(), SimpleNamespace()
        trainer = RLTrainer(config, no_data, ActorRole(actor), no_engines)
        processes = ranks()
        channel.send({"ranks": actor.world_size})
        number = 0
        while (question := channel.receive()) is not None:
            rows = batch_rows(**question["rows"])
            seconds = []
            before = [process.memory_info().rss for process in processes]
            reset_peaks(processes)
            for _ in range(question["repeats"]):
                number += 1
                begin = time.perf_counter()
                metrics = trainer.update(rows, number)
                seconds.append(time.perf_counter() - begin)
            assert metrics["actor/skipped_steps"] == 0, metrics
            peaks = [peak(process) for process in processes]
            channel.send({"seconds": seconds, "rss": before, "peak": peaks})


def ranks():
    """The processes of the training ranks: this one, or Ray's."""
    own = psutil.Process()
    found = []
    for child in own.children(recursive=True):
        with suppress(psutil.Error):
            if "ActorWorker" in " ".join(child.cmdline()):
                found.append(child)
    return found or [own]


def reset_peaks(processes):
    for process in processes:
        with suppress(OSError):  # not every container may
            Path(f"/proc/{process.pid}/clear_refs").write_text("5")


def peak(process):
    """Largest resident memory since `reset_peaks`, in bytes."""
    for line in Path(f"/proc/{process.pid}/status").read_text().splitlines():
        if line.startswith("VmHWM"):
            return int(line.split()[1]) * 1024
    return None


if __name__ == "__main__":
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    main()
