"""Starts a sync through Ray whose engine never gets to load; then dies, as `sys.argv[1]` says, in the middle of it.

"engine": the engine's process is killed; prints the error that the sender gets. "trainer": this process is killed.
"""

import os
import signal
import sys
import threading
import time

import torch

from verl.single_controller import Worker, WorkerError, dispatch
from verl.single_controller.ray_group import RayWorkerGroup
from verl.single_controller.runtime import ray_session
from verl.weights import Bucket, WeightStream, send


class StuckEngine(Worker):
    def __init__(self):
        self._stream = WeightStream(lambda weights: [time.sleep(600) for _ in weights])

    @dispatch()
    def pid(self):
        return os.getpid()

    @dispatch()
    def receive_bucket(self, bucket):
        self._stream.put(bucket)


def main():
    with ray_session():
        engines = RayWorkerGroup("rollout", StuckEngine)
        (pid,) = engines.pid()
        parts = (Bucket([f"w{i}"], [torch.ones(4 * 2**20)]) for i in range(8))

        def end():
            time.sleep(2)
            os.kill(pid if sys.argv[1] == "engine" else os.getpid(), signal.SIGKILL)

        threading.Thread(target=end, daemon=True).start()
        try:
            send(parts, [engines.receiver("receive_bucket")])
        except WorkerError as error:
            print(type(error).__name__, flush=True)


if __name__ == "__main__":
    main()
