"""A driver on a cluster of four machines with 8 pretended GPUs each: reserves what plans say, starts toy
workers there, for small ones, and prints where they find themselves."""

import json

from ray.cluster_utils import Cluster
from ray.util.placement_group import placement_group_table
from toy_worker import Toy

from verl.config import RolloutConfig
from verl.config.placement import place
from verl.config.root import ActorRolloutRefConfig, TrainerConfig
from verl.single_controller.ray_group import RayWorkerGroup
from verl.single_controller.resources import ResourcePool, machines
from verl.single_controller.runtime import ray_session
from verl.types import InputError

CASES = {
    # name: (training nodes, GPUs of each, engines' nodes, GPUs of each, GPUs of an engine, whether workers start)
    "2 colocated": (1, 2, 0, None, 2, True),
    "4 + 4 on one machine": (1, 4, 1, 4, 2, True),
    "8 colocated": (1, 8, 0, None, 4, False),
    "8 + 8": (2, 4, 1, 8, 2, False),
    "32 colocated": (4, 8, 0, None, 2, False),
    "16 + 16 on all machines": (4, 4, 4, 4, 1, False),
}


def plan(nodes, gpus, own_nodes, own_gpus, size):
    roles = ActorRolloutRefConfig(
        rollout=RolloutConfig(nnodes=own_nodes, n_gpus_per_node=own_gpus, tensor_model_parallel_size=size)
    )
    return place(TrainerConfig(nnodes=nodes, n_gpus_per_node=gpus), roles, machines(has_gpus=True))


def found(role, seats, pool):
    """Node and GPUs of each rank, as the worker there sees them."""
    group = RayWorkerGroup(role, Toy, num_ranks=len(seats), pool=pool, seats=seats)
    devices = [environment["CUDA_VISIBLE_DEVICES"] for environment in group.environment("CUDA_VISIBLE_DEVICES")]
    nodes = group.nodes()
    group.shutdown()
    return list(zip(nodes, devices, strict=True))


def reserved():
    """Nodes of the GPUs that Ray keeps for the run, one list for each of its machines."""
    groups = [group for group in placement_group_table().values() if group["state"] == "CREATED"]
    assert all(bundle["GPU"] == 1 for group in groups for bundle in group["bundles"].values())
    return [list(group["bundles_to_node_id"].values()) for group in groups]


if __name__ == "__main__":
    size = {"num_cpus": 2, "num_gpus": 8}
    cluster = Cluster(initialize_head=True, head_node_args=size)
    for _ in range(3):
        cluster.add_node(**size)
    with ray_session({"address": cluster.address}):
        for name, (*asked, has_workers) in CASES.items():
            placement = plan(*asked)
            pool = ResourcePool(placement.slots_per_node, has_gpus=True)
            roles = {"actor": placement.actor, "rollout": placement.rollout}
            told = {
                "case": name,
                "plan": {role: [(seat.node, seat.slots) for seat in seats] for role, seats in roles.items()},
                "slots": placement.slots_per_node,
                "reserved": reserved(),
                "found": {role: found(role, seats, pool) for role, seats in roles.items()} if has_workers else None,
            }
            pool.release()
            print(json.dumps(told), flush=True)
        try:
            plan(4, 8, 1, 4, 1)
        except InputError as error:
            print(json.dumps({"case": "impossible", "error": str(error)}))
    cluster.shutdown()
