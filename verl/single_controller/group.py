"""The driver's view of a role: many ranks that are called like one object.

    group.update_policy(parts)              one call for each rank, cut and collected as `@dispatch` says
    for item in group.generate(parts): ...  a streaming method: items of all ranks, as they are made
    group.start("update_policy", parts)     the same without waiting: a `Pending`
    group.start_on(1, "score", items)       one rank only
    group.stream_on(1, "generate", part)    a streaming method of one rank only: a `Stream`
    group.replace(1)                        end that rank, whatever it is doing, and start a new one in its place
    group.receiver("receive_bucket")        something a *worker of another group* calls this group with

Two groups keep this contract, and the same tests: `RayWorkerGroup` (processes, machines, GPUs) and `LocalWorkerGroup`
(the driver's own process: for tests, debuggers and one-process runs). Both raise `WorkerError` when a worker raises or
dies, and end the whole group then: its other ranks may sit in a collective that can never complete. Where ranks work
each for itself, `Pending.outcome`, `Stream.failure` and `Receiver.send_each` give the error without ending anything,
and `replace` mends the group.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from verl.single_controller.dispatch import Call, Results, Rule, calls_for_ranks, rule_of
from verl.single_controller.errors import WorkerError
from verl.single_controller.processes import Report


@dataclass(frozen=True)
class Deadline:
    """How long a call may take."""

    seconds: float
    """From the moment it was begun."""
    key: str
    """The configuration key that says so, for the message."""


@dataclass(frozen=True)
class Standing:
    """Where one rank is, asked from outside, whatever it is doing."""

    rank: int
    host: str
    pid: int
    report: Report

    def __str__(self) -> str:
        return f"rank {self.rank}, process {self.pid} on {self.host}: {self.report.text}"


class Pending(Protocol):
    """A call that is under way."""

    @property
    def is_done(self) -> bool:
        """Whether `result` would not wait."""
        ...

    def result(self, timeout: float | None = None) -> Any:
        """Wait for it and give what the direct call would have given.

        Args:
            timeout: seconds from now; None: the group's deadline for this method, if it has one.

        Raises:
            WorkerError: a worker failed, and the group has ended.
            DeadlineExceeded: a WorkerError too: a worker did not return in time. It tells where each of them hangs.
        """
        ...

    def outcome(self) -> Any | WorkerError:
        """Like `result`, but a failure is returned, not raised, and the group goes on: for calls of one rank alone."""
        ...


class Stream(Protocol):
    """A streaming method of one rank, under way. Its failure is told, not raised, and the group goes on."""

    def take(self) -> list[Any]:
        """The items that have arrived since the last call, in order; does not wait."""
        ...

    @property
    def is_done(self) -> bool:
        """Whether `take` has given the last item: the method has ended, or failed."""
        ...

    @property
    def failure(self) -> WorkerError | None:
        """What ended it, after its last item; None while it goes on, or if nothing went wrong."""
        ...


class Receiver(Protocol):
    """One method of workers of a group, for the use of another group's worker: picklable, past the driver."""

    @property
    def ranks(self) -> tuple[int, ...]:
        """Whom it reaches."""
        ...

    def send_each(
        self, payload: Any, ranks: Sequence[int] | None = None, timeout: float | None = None
    ) -> dict[int, Any | WorkerError]:
        """Call the method with `payload` on every rank, or on these; wait, and return the results by rank.

        What a rank failed with, an error that names it, stands in the place of its result; nothing is raised.
        A rank that has not answered after `timeout` seconds has failed (WorkerLate); it may still be busy with it.
        """
        ...


class WorkerGroup(ABC):
    """The workers of one role."""

    def __init__(self, role: str, worker_cls: type, num_ranks: int) -> None:
        self.worker_cls = worker_cls
        self.role = role
        self.world_size = num_ranks
        self.deadlines: Mapping[str, Deadline] = {}
        """By method, for those that are awaited as a whole (no streams); `ready` is the construction."""
        self.num_arrived = 0
        """Results and items that have come from the workers so far: who watches a run sees it move."""
        self._failure: Exception | None = None
        self._is_shut_down = False

    def __getattr__(self, method: str) -> Callable[..., Any]:
        if method.startswith("_") or method == "worker_cls":
            raise AttributeError(method)
        rule = rule_of(self.worker_cls, method)

        def call(*args: Any, **kwargs: Any) -> Any:
            if not rule.streams:
                return self.start(method, *args, **kwargs).result()
            self._check_usable()
            calls = calls_for_ranks(rule, f"{self.role}.{method}", self.world_size, args, kwargs)
            return self._stream(method, calls, wanted=self._wanted(rule.results))

        return call

    def start(self, method: str, *args: Any, **kwargs: Any) -> Pending:
        """Begin a call on all ranks, cut as the method's rule says, and do not wait for it."""
        rule = self._rule_to_start(method)
        calls = calls_for_ranks(rule, f"{self.role}.{method}", self.world_size, args, kwargs)
        is_list = rule.results is Results.ALL
        return self._launch(method, dict(enumerate(calls)), lambda results: results if is_list else results[0])

    def start_on(self, rank: int, method: str, *args: Any, **kwargs: Any) -> Pending:
        """Begin a call on one rank, with the arguments as they are. Its result is the method's own."""
        self._rule_to_start(method)
        return self._launch(method, {rank: (args, kwargs)}, lambda results: results[0])

    def stream_on(self, rank: int, method: str, *args: Any, **kwargs: Any) -> Stream:
        """Begin a streaming method on one rank, with the arguments as they are."""
        if not rule_of(self.worker_cls, method).streams:
            raise TypeError(f"{self.role}.{method} is not a stream: use group.start_on({rank}, {method!r}, ...).")
        self._check_usable()
        return self._launch_stream(rank, method, (args, kwargs))

    @abstractmethod
    def blame(self, rank: int, cause: str, kind: type[WorkerError] = WorkerError) -> WorkerError:
        """The error for what the driver finds wrong with a worker, such as silence: with its host and its log."""

    @abstractmethod
    def ready(self) -> None:
        """Wait until all workers are constructed. Raises WorkerError if a constructor fails."""

    @abstractmethod
    def receiver(self, method: str, ranks: Sequence[int] | None = None) -> Receiver:
        """A method of this group, or of these ranks, for another group's workers. Waits until they are constructed."""

    @abstractmethod
    def replace(self, rank: int) -> Pending:
        """End one worker, in the middle of a call or dead already, and begin to construct a new one in its place.

        Only for roles whose ranks do not meet in collectives. Calls of the old worker that are not done are lost: their
        outcome is `WorkerDied`. Receivers made before know only the old worker. The result is done when the new worker
        is constructed; calls can be started at once.

        Raises WorkerDied if the machine that the worker's place was on is gone: no other could ever start there.
        """

    @abstractmethod
    def wait_any(self, waited: Sequence[Pending | Stream], timeout: float | None = None) -> None:
        """Wait until one of this group's calls is done, or a stream has something to take or has ended.

        At most `timeout` seconds; nothing to wait for is no wait.
        """

    @abstractmethod
    def standing(self) -> list[Standing]:
        """Where every rank is at this moment; takes some seconds. Any thread may ask."""

    @abstractmethod
    def resident_bytes(self) -> list[int]:
        """Memory of each worker's process that runs on this machine."""

    @abstractmethod
    def abort(self, error: Exception) -> None:
        """End all workers in the middle of what they do: whoever waits for them gets `error`. Any thread may call."""

    @abstractmethod
    def begin_shutdown(self) -> None:
        """Begin to close the workers, so that those of several groups close at the same time."""

    @abstractmethod
    def shutdown(self) -> None:
        """Call every worker's `close`, then end the workers. A second call does nothing."""

    @abstractmethod
    def _launch(self, method: str, calls: Mapping[int, Call], collect: Callable[[list[Any]], Any]) -> Pending:
        """Begin one call for each rank given; `collect` turns the results, in rank order, into the caller's."""

    @abstractmethod
    def _launch_stream(self, rank: int, method: str, call: Call) -> Stream:
        """Begin a generator on one rank."""

    @abstractmethod
    def _stream(self, method: str, calls: Sequence[Call], wanted: range) -> Iterator[Any]:
        """Begin a generator on every rank; iterate over the items of the `wanted` ranks."""

    def _rule_to_start(self, method: str) -> Rule:
        rule = rule_of(self.worker_cls, method)
        if rule.streams:
            raise TypeError(f"{self.role}.{method} is a stream, which starts when called: use group.{method}(...).")
        self._check_usable()
        return rule

    def _wanted(self, results: Results) -> range:
        return range(self.world_size if results is Results.ALL else 1)

    def _check_usable(self) -> None:
        if self._failure:
            raise self._failure
        if self._is_shut_down:
            raise RuntimeError(f"The {self.role} group has been shut down and takes no calls.")
