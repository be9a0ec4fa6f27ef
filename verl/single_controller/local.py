"""A worker group in the driver's own process: the contract of `WorkerGroup` without Ray, for tests and debuggers.

Ranks run one after the other, so a group of several ranks cannot use collectives. Calls run when they are started, and
streams when they are read. The worker's exception is chained to the WorkerError, so a post-mortem debugger reaches the
real frame.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from verl.single_controller.dispatch import Call
from verl.single_controller.errors import Failure, WorkerError
from verl.single_controller.group import Pending, Receiver, WorkerGroup
from verl.single_controller.worker import RankInfo, Worker, make_worker


@dataclass
class _Done:
    """A call that ran when it was started."""

    value: Any = None
    error: WorkerError | None = None

    @property
    def is_done(self) -> bool:
        return True

    def result(self) -> Any:
        if self.error:
            raise self.error
        return self.value


class LocalWorkerGroup(WorkerGroup):
    """Workers as plain objects.

    Args:
        role: name used in messages.
        worker_cls: the worker's class.
        args: positional arguments of every worker's constructor.
        kwargs: keyword arguments of every worker's constructor.
        num_ranks: number of workers.
    """

    def __init__(
        self,
        role: str,
        worker_cls: type[Worker],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
        num_ranks: int = 1,
    ) -> None:
        super().__init__(role, worker_cls, num_ranks)
        self.workers: list[Worker] = []
        for rank in range(num_ranks):
            info = RankInfo(rank, num_ranks, rank)
            try:
                self.workers.append(make_worker(worker_cls, info, *args, **(kwargs or {})))
            except Exception as error:
                self._fail(rank, error)
                break

    def ready(self) -> None:
        self._check_usable()

    def receiver(self, method: str) -> Receiver:
        self.ready()
        return _LocalReceiver(self, method)

    def wait_any(self, pendings: Sequence[Pending]) -> None:
        """Nothing to wait for: a local call is done when it has been started."""

    def shutdown(self) -> None:
        if not self._is_shut_down:
            self._is_shut_down = True
            for worker in self.workers:
                worker.close()

    def _launch(self, method: str, calls: Mapping[int, Call], collect: Callable[[list[Any]], Any]) -> Pending:
        results: list[Any] = []
        for rank, (args, kwargs) in calls.items():
            try:
                results.append(getattr(self.workers[rank], method)(*args, **kwargs))
            except Exception as error:
                return _Done(error=self._fail(rank, error))
        return _Done(collect(results))

    def _stream(self, method: str, calls: Sequence[Call], wanted: range) -> Iterator[Any]:
        streams = {
            rank: getattr(worker, method)(*args, **kwargs)
            for rank, (worker, (args, kwargs)) in enumerate(zip(self.workers, calls, strict=True))
        }
        while streams:
            for rank, stream in list(streams.items()):
                try:
                    item = next(stream)
                except StopIteration:
                    del streams[rank]
                    continue
                except Exception as error:
                    raise self._fail(rank, error) from error
                if rank in wanted:
                    yield item

    def _fail(self, rank: int, error: Exception) -> WorkerError:
        self._failure = Failure.of(error).as_error(self.role, rank, socket.gethostname())
        if self._failure is not error:
            self._failure.__cause__ = error
        return self._failure


@dataclass(frozen=True)
class _LocalReceiver:
    group: LocalWorkerGroup
    method: str

    def send_all(self, payload: Any) -> list[Any]:
        pendings = [self.group.start_on(rank, self.method, payload) for rank in range(self.group.world_size)]
        return [pending.result() for pending in pendings]
