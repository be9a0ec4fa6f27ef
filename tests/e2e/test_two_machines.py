"""A run on two machines ends as one on one machine: same metrics, same weights, bit for bit.

The machines are namespaces of this one (`two_machines.sh`), so nothing can go by loopback, shared memory or process
numbers: collectives, new weights for the engine of the other machine and Ray itself go through the cable. Both runs
have two ranks and two engines, so that every sum is made in the same order.
"""

import os
import re
import subprocess
import sys

import pytest
from safetensors.numpy import load_file
from whole_runs import ROOT, read_metrics

TWO_MACHINES = ["bash", "tests/e2e/two_machines.sh"]
RUN = (
    "actor_rollout_ref.rollout.name=hf",
    "actor_rollout_ref.rollout.num_engines=2",
    "trainer.total_training_steps=3",
    "trainer.save_freq=3",
    "trainer.test_freq=3",
    "trainer.deterministic=true",
    "actor_rollout_ref.actor.self_distillation.teacher_update_rate=0.05",
    "actor_rollout_ref.actor.checkpoint.save_contents=[model,optimizer,extra,hf_model]",
)
TIMES = ("timing_s/", "timing_per_token_ms/", "perf/")
"""Metrics that no two runs share."""


@pytest.fixture
def needs_namespaces():
    tried = subprocess.run([*TWO_MACHINES, "--try"], cwd=ROOT, capture_output=True, text=True)
    if tried.returncode:
        pytest.skip(f"no second machine can be made here: {tried.stderr.strip()}")


def on_two_machines(quickstart, folder, run):
    command = quickstart.command(run, *RUN, "trainer.nnodes=2", "trainer.n_gpus_per_node=1")
    done = subprocess.run(
        [*TWO_MACHINES, str(folder), *command],
        cwd=ROOT,
        env=os.environ | {"PYTHON": sys.executable},
        capture_output=True,
        text=True,
        timeout=400,
    )
    logs = "\n".join(log.read_text()[-2000:] for log in folder.glob("ray*.log"))
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-5000:] + logs


def without_times(lines):
    return [{name: value for name, value in line.items() if not name.startswith(TIMES)} for line in lines]


def machine_of(run, worker):
    return re.findall(r"^process \d+ on (\S+)$", (run / "logs" / f"{worker}.log").read_text(), re.MULTILINE)


@pytest.mark.slow
def test_two_machines_train_as_one(needs_namespaces, quickstart, tmp_path):
    one, two = tmp_path / "one", tmp_path / "two"
    quickstart.run(one, *RUN, "trainer.n_gpus_per_node=2")
    on_two_machines(quickstart, tmp_path / "machines", two)
    for role in ("actor", "rollout"):
        assert {*machine_of(two, f"{role}-0"), *machine_of(two, f"{role}-1")} == {"machine1", "machine2"}
    assert len(read_metrics(two)) == 4  # the validation before the first step, and three steps
    assert without_times(read_metrics(two)) == without_times(read_metrics(one))
    weights, expected = (
        load_file(folder / "global_step_3/actor/huggingface/model.safetensors") for folder in (two, one)
    )
    assert weights.keys() == expected.keys()
    assert all((weights[name] == expected[name]).all() for name in expected)
