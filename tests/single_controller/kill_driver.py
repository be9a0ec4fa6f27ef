"""A driver to be killed: starts two workers, prints their process ids, and waits with them for ever."""

from toy_worker import Toy

from verl.single_controller.ray_group import RayWorkerGroup
from verl.single_controller.runtime import ray_session

if __name__ == "__main__":
    with ray_session():
        group = RayWorkerGroup("toy", Toy, num_ranks=2)
        print(*group.pid(), flush=True)
        group.fail_on(-1, waits=True)
