"""A worker group in the driver's own process: the contract of `WorkerGroup` without Ray, for tests and debuggers.

Ranks run one after the other, so a group of several ranks cannot use collectives. Calls run when they are started, and
streams when they are read, so there are no deadlines. The worker's exception is chained to the WorkerError, so a
post-mortem debugger reaches the real frame.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from verl.single_controller.dispatch import Call
from verl.single_controller.errors import Failure, WorkerError
from verl.single_controller.group import Pending, Receiver, Standing, Stream, WorkerGroup
from verl.single_controller.processes import Report, own_stacks
from verl.single_controller.worker import RankInfo, Worker, make_worker


@dataclass(frozen=True)
class _Done:
    """A call that ran when it was started."""

    group: LocalWorkerGroup
    value: Any = None
    """What it returned, or the WorkerError."""

    @property
    def is_done(self) -> bool:
        return True

    def result(self, timeout: float | None = None) -> Any:
        if isinstance(self.value, WorkerError):
            raise self.group._end(self.value)
        return self.value

    def outcome(self) -> Any | WorkerError:
        return self.value


@dataclass(eq=False)
class _LocalStream:
    """A generator that makes one item each time it is asked, so that streams take turns."""

    group: LocalWorkerGroup
    rank: int
    items: Iterator[Any]
    is_done: bool = False
    failure: WorkerError | None = None

    def take(self) -> list[Any]:
        if self.is_done:
            return []
        try:
            return [next(self.items)]
        except StopIteration:
            self.is_done = True
        except Exception as error:
            self.is_done, self.failure = True, self.group._describe(self.rank, error)
        return []


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
        self._args, self._kwargs = args, kwargs or {}
        self.workers: list[Worker] = []
        for rank in range(num_ranks):
            try:
                self.workers.append(self._make(rank))
            except Exception as error:
                self._end(self._describe(rank, error))
                break

    def ready(self) -> None:
        self._check_usable()

    def receiver(self, method: str, ranks: Sequence[int] | None = None) -> Receiver:
        self.ready()
        return _LocalReceiver(self, method, tuple(range(self.world_size) if ranks is None else ranks))

    def blame(self, rank: int, cause: str, kind: type[WorkerError] = WorkerError) -> WorkerError:
        return kind(self.role, rank, socket.gethostname(), cause)

    def replace(self, rank: int) -> Pending:
        """A new object in place of the old one, which is forgotten: a call that hangs cannot be ended in process."""
        self._check_usable()
        try:
            self.workers[rank] = self._make(rank)
        except Exception as error:
            return _Done(self, self._describe(rank, error))
        return _Done(self)

    def wait_any(self, waited: Sequence[Pending | Stream], timeout: float | None = None) -> None:
        """Nothing to wait for: a local call is done when it was started, and a stream makes its items when asked."""

    def standing(self) -> list[Standing]:
        report = Report(f"in the driver's process\n{own_stacks()}", can_answer=True)
        return [Standing(rank, socket.gethostname(), os.getpid(), report) for rank in range(self.world_size)]

    def resident_bytes(self) -> list[int]:
        """Nothing of its own: the driver's memory is theirs."""
        return []

    def abort(self, error: Exception) -> None:
        """The group takes no more calls; one that hangs cannot be ended in process."""
        self._failure = error

    def begin_shutdown(self) -> None:
        """Nothing: in one process they close one after the other."""

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
                return _Done(self, self._describe(rank, error))
        return _Done(self, collect(results))

    def _launch_stream(self, rank: int, method: str, call: Call) -> Stream:
        args, kwargs = call
        return _LocalStream(self, rank, getattr(self.workers[rank], method)(*args, **kwargs))

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
                    raise self._end(self._describe(rank, error)) from error
                if rank in wanted:
                    yield item

    def _make(self, rank: int) -> Worker:
        info = RankInfo(rank, self.world_size, rank)
        return make_worker(self.worker_cls, info, *self._args, **self._kwargs)

    def _describe(self, rank: int, error: Exception) -> WorkerError:
        described = Failure.of(error).as_error(self.role, rank, socket.gethostname())
        if described is not error:
            described.__cause__ = error
        return described

    def _end(self, error: WorkerError) -> WorkerError:
        """The group takes no more calls."""
        self._failure = error
        return error


@dataclass(frozen=True)
class _LocalReceiver:
    group: LocalWorkerGroup
    method: str
    ranks: tuple[int, ...]

    def send_each(
        self, payload: Any, ranks: Sequence[int] | None = None, timeout: float | None = None
    ) -> dict[int, Any | WorkerError]:
        return {rank: pending.outcome() for rank, pending in self._start(payload, ranks).items()}

    def _start(self, payload: Any, ranks: Sequence[int] | None) -> dict[int, Pending]:
        chosen = self.ranks if ranks is None else ranks
        return {rank: self.group.start_on(rank, self.method, payload) for rank in chosen}
