"""The Ray actor around one worker.

It is started empty, before the worker's class is even imported: so the processes of all roles start at once, rank 0's
address is known to the others, and an import error or a failing constructor is reported like any other failure of the
worker. Exceptions are returned as `Failure`, not raised, because only their words are sure to reach the driver.
"""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
from ray import cloudpickle

from verl.single_controller.errors import Failure
from verl.single_controller.processes import ProcessId, answer_with_stacks, this_process
from verl.single_controller.worker import RankInfo, Worker, make_worker


@dataclass(frozen=True)
class Home:
    """Where a worker lives, for messages about it."""

    host: str
    process: ProcessId
    log: str
    node: str = ""
    """Ray's name of the machine; two nodes may share a machine in tests."""


class WorkerHost:
    """Holds one worker and calls its methods.

    Args:
        log_path: file for what the process writes to stdout and stderr; None leaves it in Ray's session folder.
        devices: CUDA_VISIBLE_DEVICES in place of Ray's; it must be set here, where no worker has touched CUDA yet.
    """

    def __init__(self, log_path: str | None, devices: str | None) -> None:
        self._worker: Worker | None = None
        self._failure: Failure | None = None
        if devices:
            os.environ["CUDA_VISIBLE_DEVICES"] = devices
        if log_path:
            _redirect_output(Path(log_path))
            print(f"process {os.getpid()} on {socket.gethostname()}", flush=True)  # a run may be on many machines
        answer_with_stacks()

    def home(self) -> Home:
        node = ray.get_runtime_context().get_node_id()
        return Home(socket.gethostname(), this_process(), os.readlink("/proc/self/fd/2"), node)

    def meeting_point(self) -> tuple[str, int]:
        """Address and free port for the group's collectives; asked of rank 0."""
        with socket.socket() as probe:
            probe.bind(("", 0))
            return ray.util.get_node_ip_address(), probe.getsockname()[1]

    def create(
        self,
        meeting_point: tuple[str, int],
        rank: int,
        world_size: int,
        local_rank: int,
        import_path: list[str],
        recipe: bytes,
    ) -> Failure | None:
        """Construct the worker; `recipe` is its pickled class, arguments and keyword arguments."""
        sys.path.extend(path for path in import_path if path not in sys.path)  # what the driver finds is found here
        try:
            worker_cls, args, kwargs = cloudpickle.loads(recipe)
            info = RankInfo(rank, world_size, local_rank, *meeting_point)
            self._worker = make_worker(worker_cls, info, *args, **kwargs)
        except (Exception, SystemExit) as error:
            self._failure = Failure.of(error)
        return self._failure

    def call(self, method_name: str, *args: Any, **kwargs: Any) -> Any:
        """Call a method; a worker that was never made answers with the reason."""
        try:
            return self._failure or getattr(self._worker, method_name)(*args, **kwargs)
        except (Exception, SystemExit) as error:
            return Failure.of(error)

    def stream(self, method_name: str, *args: Any, **kwargs: Any) -> Iterator[Any]:
        """Iterate over a generator method; a failure is the last item."""
        try:
            if self._failure:
                yield self._failure
            else:
                yield from getattr(self._worker, method_name)(*args, **kwargs)
        except (Exception, SystemExit) as error:
            yield Failure.of(error)


def _redirect_output(path: Path) -> None:
    """Send this process's stdout and stderr, also of native code, to a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
