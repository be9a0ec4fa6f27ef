"""A node is lost: Ray's daemon on it is killed, and takes with it what ran there. Two nodes on this machine."""

import re
import threading

import pytest
from fault_table import note
from faults import Fault
from harness import assert_same

SETTINGS = (
    "actor_rollout_ref.rollout.name=hf",
    "trainer.device=cpu",
    "trainer.nnodes=2",
    "trainer.n_gpus_per_node=1",
    "trainer.total_training_steps=3",
)


@pytest.fixture
def cluster():
    from ray.cluster_utils import Cluster

    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    yield made
    made.shutdown()


@pytest.mark.slow
def test_a_lost_node_ends_the_run(cluster, make_run):
    address = f"+ray_kwargs.ray_init.address={cluster.address}"
    reference, run = make_run((*SETTINGS, address)), make_run((*SETTINGS, address))
    run.folder = run.folder.with_name("lost_node")
    second = cluster.add_node(num_cpus=1)
    reference.finish()
    (raylet,) = second.all_processes["raylet"]
    threading.Thread(target=raylet.process.wait, daemon=True).start()  # its workers take a zombie for alive
    ended = run.start(Fault(str(raylet.process.pid), "actor.update_policy", 2, takes_workers=True))
    assert ended.code == 1, ended.output
    # Whom the driver misses first is open: a rank in the update, or the engine, if that rank was done in time.
    message = r"(actor|rollout) rank \d on \S+ failed: WorkerDied: (process \d+ died|its node was lost)"
    assert re.search(message, ended.output), ended.output
    cluster.add_node(num_cpus=1)
    run.finish()
    assert_same(run, reference)
    note(
        "Ray's daemon of the second node: update",
        "ends with the message; goes on with a new node",
        run.seconds_to_recover(),
    )
