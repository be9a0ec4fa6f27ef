"""One driver over groups of workers: the part that every role and the trainer share.

The names here do not import Ray; `ray_group`, `resources` and `runtime` do.
"""

from verl.single_controller.dispatch import Arguments, Results, dispatch
from verl.single_controller.errors import WorkerDied, WorkerError, WorkerLate
from verl.single_controller.group import Pending, Receiver, Stream, WorkerGroup
from verl.single_controller.local import LocalWorkerGroup
from verl.single_controller.worker import RankInfo, Worker

__all__ = [
    "Arguments",
    "LocalWorkerGroup",
    "Pending",
    "RankInfo",
    "Receiver",
    "Results",
    "Stream",
    "Worker",
    "WorkerDied",
    "WorkerError",
    "WorkerGroup",
    "WorkerLate",
    "dispatch",
]
