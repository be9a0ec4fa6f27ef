"""Two hundred steps do not grow: memory, open files and threads of every process of a run, read from outside."""

import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from e2e.whole_runs import ROOT, Quickstart, read_metrics

NUM_STEPS = 200
FULL = range(50, 70)
"""Steps in which caches are full: of allocators, of Ray, of recorded kernels."""
LAST = range(180, NUM_STEPS)
MOST_GROWTH = 0.05
LEAST_BOUND = 12 * 1024**2
"""Bytes: 90 kB a step. Allocators wander by 1 to 3 MB, and the list that Ray keeps of calls fills by 6 MB in this time.
Weights (0.3 MB), gradients, optimizer states or logits of a step that stay are seen; a kept response of 1 kB is not."""
FEW = 4
"""Files or threads that libraries may open late; one that stays with every validation or save would be 6 by then."""
SETTINGS = (
    "actor_rollout_ref.rollout.name=hf",
    "actor_rollout_ref.rollout.n=2",
    "data.train_batch_size=4",
    "trainer.n_gpus_per_node=1",
    "trainer.val_before_train=false",
    "trainer.test_freq=20",
    "trainer.save_freq=20",
    "trainer.max_actor_ckpt_to_keep=1",
    "trainer.logger=[file]",
    f"trainer.total_training_steps={NUM_STEPS}",
)


def name_of(process):
    """A worker's log says which it is."""
    output = Path(f"/proc/{process.pid}/fd/2").readlink()
    return output.stem if output.parent.name == "logs" and output.suffix == ".log" else Path(process.exe()).name


def usage(driver):
    """(name, process id) -> private bytes, shared bytes that are not files, open files, threads."""
    found = {}
    for process in [driver, *driver.children(recursive=True)]:
        try:
            name = "driver" if process.pid == driver.pid else name_of(process)
            text = Path(f"/proc/{process.pid}/smaps_rollup").read_text()
            kilobytes = {line.split(":")[0]: int(line.split()[1]) for line in text.splitlines()[1:]}
            private = kilobytes["Private_Clean"] + kilobytes["Private_Dirty"]
            shared = kilobytes["Pss_Shmem"]
            found[name, process.pid] = (private * 1024, shared * 1024, process.num_fds(), process.num_threads())
        except (psutil.NoSuchProcess, OSError):
            continue  # it ended while we looked
    return found


def least(samples):
    """The least of each number over samples: what is between two calls, not in the middle of one."""
    pids = set.intersection(*map(set, samples))
    return {pid: [min(numbers) for numbers in zip(*(sample[pid] for sample in samples), strict=True)] for pid in pids}


@pytest.mark.slow
def test_nothing_grows(home_api_data, tmp_path):
    process = subprocess.Popen(
        Quickstart(home_api_data).command(tmp_path, *SETTINGS), cwd=ROOT, stdout=sys.stderr, stderr=subprocess.STDOUT
    )
    driver, samples, step = psutil.Process(process.pid), {}, 0
    while process.poll() is None:
        lines = read_metrics(tmp_path)
        step = lines[-1]["step"] if lines else 0
        if step in FULL or step in LAST:
            samples.setdefault(step, usage(driver))
        time.sleep(0.1)
    assert process.wait() == 0
    full, last = (least([sample for step, sample in samples.items() if step in steps]) for steps in (FULL, LAST))
    both = {name for name, _ in full.keys() & last.keys()}
    assert both >= {"driver", "actor-0", "rollout-0", "reward-0", "raylet", "gcs_server"}
    assert len(last) <= len(full) + FEW, "processes are left"
    grown = []
    for key in sorted(full.keys() & last.keys()):
        (private, shared, files, threads), after = full[key], last[key]
        print(key, full[key], after)
        for kind, before, now in (("private", private, after[0]), ("shared", shared, after[1])):
            if now - before > max(LEAST_BOUND, MOST_GROWTH * before):
                grown.append(f"{key[0]}: {kind} memory from {before / 2**20:.1f} to {now / 2**20:.1f} MiB")
        if after[2] > files + FEW or after[3] > threads + FEW:
            grown.append(f"{key[0]}: files from {files} to {after[2]}, threads from {threads} to {after[3]}")
    assert not grown, "\n".join(grown)
