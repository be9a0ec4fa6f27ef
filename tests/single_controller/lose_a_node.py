"""A driver with a rank on each of two nodes. It kills the second node's raylet and prints what it is told."""

from ray.cluster_utils import Cluster
from toy_worker import Toy

from verl.single_controller import WorkerDied
from verl.single_controller.ray_group import RayWorkerGroup
from verl.single_controller.resources import ResourcePool
from verl.single_controller.runtime import ray_session

if __name__ == "__main__":
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    second = cluster.add_node(num_cpus=1)
    with ray_session({"address": cluster.address}):
        group = RayWorkerGroup("toy", Toy, num_ranks=2, pool=ResourcePool(2, 1, has_gpus=False))
        group.ready()
        reports = [str(each) for each in group.standing()]  # also from the node that is not the driver's
        assert all("main_loop" in report for report in reports), reports
        pending = group.start("fail_on", 5, True)
        second.all_processes["raylet"][0].process.kill()
        try:
            pending.result()
        except WorkerDied as error:
            print(error)
        print("SECOND GROUP", flush=True)
        try:
            ResourcePool(2, 1, has_gpus=False)
        except RuntimeError as error:
            print(error)
    cluster.shutdown()
