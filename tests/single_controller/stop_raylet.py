"""A driver whose Ray stops answering (SIGSTOP to its raylet) and that leaves all the same."""

import logging
import os
import signal
import subprocess

from toy_worker import Toy

from verl.single_controller import runtime
from verl.single_controller.ray_group import RayWorkerGroup

if __name__ == "__main__":
    logging.basicConfig(level=logging.WARNING)
    runtime.STOP_SECONDS = 3.0
    with runtime.ray_session():
        group = RayWorkerGroup("toy", Toy, num_ranks=2)
        group.ready()
        children = subprocess.run(["pgrep", "-P", str(os.getpid()), "raylet"], capture_output=True, text=True).stdout
        os.kill(int(children), signal.SIGSTOP)
        group.shutdown()
    print("left", flush=True)
