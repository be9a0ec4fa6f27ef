"""A driver with a rank on each of two nodes. It kills the second node's raylet and prints what it is told."""

from ray.cluster_utils import Cluster
from ray.util.placement_group import placement_group
from toy_worker import Toy

from verl.config.placement import place
from verl.config.root import TrainerConfig
from verl.single_controller import WorkerDied
from verl.single_controller.ray_group import RayWorkerGroup
from verl.single_controller.resources import SLOT_CPUS, ResourcePool, machines
from verl.single_controller.runtime import ray_session
from verl.types import InputError

if __name__ == "__main__":
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    second = cluster.add_node(num_cpus=1)
    two_nodes = TrainerConfig(nnodes=2, n_gpus_per_node=1)
    with ray_session({"address": cluster.address}):
        placement = place(two_nodes, machines=machines(has_gpus=False), on_gpu=False)
        pool = ResourcePool(placement.slots_per_node, has_gpus=False)
        group = RayWorkerGroup("toy", Toy, num_ranks=2, pool=pool, seats=placement.actor)
        group.ready()
        reports = [str(each) for each in group.standing()]  # also from the node that is not the driver's
        assert all("main_loop" in report for report in reports), reports
        spare = RayWorkerGroup("spare", Toy, num_ranks=2, pool=pool, seats=placement.actor)
        spare.ready()
        full = placement_group([{"CPU": 1 - SLOT_CPUS}] * 2, strategy="STRICT_SPREAD")  # no machine can hold two places
        assert full.wait(10)
        pending = group.start("fail_on", 5, True)
        second.all_processes["raylet"][0].process.kill()
        try:
            pending.result()
        except WorkerDied as error:
            print(error)
            lost = error.rank
        print("REPLACED", flush=True)
        assert spare.replace(1 - lost).outcome() is None  # the other one's place is there
        try:
            spare.replace(lost)
        except WorkerDied as error:
            print(error)
        print("SECOND GROUP", flush=True)
        try:
            place(two_nodes, machines=machines(has_gpus=False), on_gpu=False)
        except InputError as error:
            print(error)
    cluster.shutdown()
