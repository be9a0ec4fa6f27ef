"""What a Ray role is: a class with `@dispatch` methods that knows which rank of how many it is.

A worker neither knows nor imports Ray: the same class runs in a Ray actor, in the driver's process (`LocalWorkerGroup`)
and under a debugger.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeVar

WorkerT = TypeVar("WorkerT", bound="Worker")


@dataclass(frozen=True)
class RankInfo:
    """Where a worker stands in its group: what `torch.distributed.init_process_group` needs."""

    rank: int = 0
    world_size: int = 1
    local_rank: int = 0
    """Number of lower ranks on the same machine."""
    master_addr: str = "127.0.0.1"
    """Address of rank 0's machine, as the others see it."""
    master_port: int = 0
    """A port that was free on rank 0's machine a moment ago (0: no group, one rank in process)."""


class Worker:
    """Base of the roles. `rank_info` is set before `__init__` runs, which therefore keeps its arguments to itself."""

    rank_info: RankInfo = RankInfo()

    def close(self) -> None:
        """Give back what must not be left to the process's end; called by the group's `shutdown`."""


def make_worker(worker_cls: type[WorkerT], info: RankInfo, *args: Any, **kwargs: Any) -> WorkerT:
    """Construct a worker that knows its rank."""
    worker = worker_cls.__new__(worker_cls)
    worker.rank_info = info
    worker.__init__(*args, **kwargs)
    return worker
