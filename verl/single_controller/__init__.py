"""One driver over groups of workers: the part that every role and the trainer share.

The names here do not import Ray; `ray_group`, `resources` and `runtime` do.
"""

from verl.single_controller.dispatch import Arguments, Results, dispatch
from verl.single_controller.errors import DeadlineExceeded, WorkerDied, WorkerError, WorkerLate
from verl.single_controller.group import Deadline, Pending, Receiver, Standing, Stream, WorkerGroup
from verl.single_controller.local import LocalWorkerGroup
from verl.single_controller.worker import RankInfo, Worker

__all__ = [
    "Arguments",
    "Deadline",
    "DeadlineExceeded",
    "LocalWorkerGroup",
    "Pending",
    "RankInfo",
    "Receiver",
    "Results",
    "Standing",
    "Stream",
    "Worker",
    "WorkerDied",
    "WorkerError",
    "WorkerGroup",
    "WorkerLate",
    "dispatch",
]
