"""Engines on slots of their own, on another node than the training rank: the run computes what it computes without."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from whole_runs import read_metrics

SETTINGS = (
    "trainer.n_gpus_per_node=1",
    "trainer.total_training_steps=2",
    "trainer.test_freq=-1",
    "trainer.save_freq=-1",
    "trainer.val_before_train=False",
    "trainer.deterministic=True",
    "actor_rollout_ref.rollout.name=hf",
    "actor_rollout_ref.rollout.num_engines=1",
)
SPLIT = (
    "actor_rollout_ref.hybrid_engine=False",
    "actor_rollout_ref.rollout.nnodes=1",
    "actor_rollout_ref.rollout.n_gpus_per_node=5",  # all that a node of one core holds
)


@pytest.fixture
def two_nodes():
    """Address of a Ray cluster of two nodes with a core each."""
    command = [sys.executable, str(Path(__file__).with_name("two_nodes.py"))]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as cluster:
        yield cluster.stdout.readline().strip()
        cluster.communicate()


@pytest.mark.slow
def test_a_split_run_on_two_nodes_learns_what_a_colocated_one_learns(quickstart, two_nodes, tmp_path):
    quickstart.run(tmp_path / "one", *SETTINGS)
    quickstart.run(tmp_path / "two", *SETTINGS, *SPLIT, f"ray_kwargs.ray_init.address={two_nodes}")
    one, two = read_metrics(tmp_path / "one"), read_metrics(tmp_path / "two")
    assert len(one) == len(two) == 3
    for name in ("actor/pg_loss", "actor/grad_norm", "critic/score/mean", "response_length/mean"):
        assert [line[name] for line in two[1:]] == [line[name] for line in one[1:]], name
    assert json.loads((tmp_path / "two" / "status.json").read_text())["status"] == "finished"
