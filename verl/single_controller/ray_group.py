"""A worker group of Ray actors.

Every wait of the driver is on all ranks at once, so that the first one that fails ends it: the others may sit in a
collective for ever. Then all are killed, and the error of the rank that caused it is raised.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import ray
from ray import ObjectRef, cloudpickle
from ray.actor import ActorHandle
from ray.exceptions import RayActorError, RayError

from verl.single_controller.dispatch import Call
from verl.single_controller.errors import Failure, WorkerDied, WorkerError
from verl.single_controller.group import Pending, Receiver, WorkerGroup
from verl.single_controller.ray_host import Home, WorkerHost
from verl.single_controller.resources import PROCESS_CPUS, ResourcePool
from verl.single_controller.worker import Worker

GRACE = 1.0
"""Seconds that other ranks get to fail too after the first exception: a peer's death shows up as a lost connection."""
CLOSE_TIMEOUT = 10.0  # seconds for the workers' `close`
LOG_LINES = 20
"""Lines of a dead worker's log in the message."""


class RayWorkerGroup(WorkerGroup):
    """Workers as Ray actors, started without waiting: `ready`, or the first call, waits for them.

    Args:
        role: name used in messages and log files.
        worker_cls: the worker's class; sent by name where it can be imported, so only its workers load its imports.
        args: positional arguments of every worker's constructor.
        kwargs: keyword arguments of every worker's constructor.
        num_ranks: number of workers.
        pool: where they run; None puts them on any machine, without a GPU.
        slots_per_rank: GPUs of one rank (1 on a machine without GPU).
        env: environment variables of the workers' processes.
        log_dir: folder for `<role>-<rank>.log`; None leaves the output in Ray's session folder.
    """

    def __init__(
        self,
        role: str,
        worker_cls: type[Worker],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
        num_ranks: int = 1,
        pool: ResourcePool | None = None,
        slots_per_rank: int = 1,
        env: Mapping[str, str] | None = None,
        log_dir: Path | None = None,
    ) -> None:
        super().__init__(role, worker_cls, num_ranks)
        if pool:
            pool.check_ranks(role, num_ranks, slots_per_rank)
        hosts: list[Any] = []
        for rank in range(num_ranks):
            options = pool.options(rank, slots_per_rank) if pool else {"num_cpus": PROCESS_CPUS}
            devices = pool.visible_devices(rank, slots_per_rank) if pool else None
            log_path = str((log_dir / f"{role}-{rank}.log").absolute()) if log_dir else None
            actor_cls = ray.remote(WorkerHost).options(runtime_env={"env_vars": dict(env)} if env else None, **options)
            hosts.append(actor_cls.remote(log_path, devices))
        self._team = _Team(role, tuple(hosts), tuple(host.home.remote() for host in hosts))
        meeting_point = hosts[0].meeting_point.remote()
        recipe = ray.put(cloudpickle.dumps((worker_cls, args, kwargs or {})))  # pyright: ignore[reportPrivateImportUsage]
        self._created: dict[ObjectRef, int] = {}
        for rank, host in enumerate(hosts):
            local_rank = pool.local_rank(rank, slots_per_rank) if pool else rank
            self._created[host.create.remote(meeting_point, rank, num_ranks, local_rank, sys.path, recipe)] = rank

    def ready(self) -> None:
        self._check_usable()
        self._gather(self._created)

    def receiver(self, method: str) -> Receiver:
        self.ready()  # calls of other processes are not ordered behind the construction, as the driver's are
        return _RayReceiver(self._team, method)

    def wait_any(self, pendings: Sequence[Pending]) -> None:
        refs = [ref for pending in pendings for ref in cast(_RayPending, pending).refs]
        if refs:
            ray.wait(refs, num_returns=1)

    def shutdown(self) -> None:
        if self._is_shut_down:
            return
        self._is_shut_down = True
        if not self._failure:
            closing: list[Any] = [host.call.remote("close") for host in self._team.hosts]
            ray.wait(closing, num_returns=len(closing), timeout=CLOSE_TIMEOUT)
        self._team.kill()

    def _launch(self, method: str, calls: Mapping[int, Call], collect: Callable[[list[Any]], Any]) -> Pending:
        refs: dict[Any, int] = {
            self._team.hosts[rank].call.remote(method, *args, **kwargs): rank for rank, (args, kwargs) in calls.items()
        }
        return _RayPending(self, refs, collect)

    def _stream(self, method: str, calls: Sequence[Call], wanted: range) -> Iterator[Any]:
        streams: dict[Any, int] = {
            host.stream.options(num_returns="streaming").remote(method, *args, **kwargs): rank
            for rank, (host, (args, kwargs)) in enumerate(zip(self._team.hosts, calls, strict=True))
        }
        return self._items(streams, wanted)

    def _items(self, streams: dict[Any, int], wanted: range) -> Iterator[Any]:
        """Items of all streams in order of arrival."""
        while streams:
            for stream in _arrived(streams):
                try:
                    ref = next(stream)
                except StopIteration:
                    del streams[stream]
                    continue
                rank = streams[stream]
                item = self._gather({ref: rank})[0]
                if rank in wanted:
                    yield item

    def _gather(self, refs: Mapping[ObjectRef, int]) -> list[Any]:
        """Results in rank order; a failure ends the group."""
        if self._failure:
            raise self._failure
        try:
            return self._team.gather(refs)
        except WorkerError as error:
            self._failure = error
            self._team.kill()
            raise


@dataclass
class _RayPending:
    group: RayWorkerGroup
    refs: dict[ObjectRef, int]
    collect: Callable[[list[Any]], Any]

    @property
    def is_done(self) -> bool:
        return not ray.wait(list(self.refs), num_returns=len(self.refs), timeout=0)[1]

    def result(self) -> Any:
        return self.collect(self.group._gather(self.refs))


@dataclass(frozen=True)
class _RayReceiver:
    team: _Team
    method: str

    def send_all(self, payload: Any) -> list[Any]:
        stored = ray.put(payload)  # once, however many receive it
        return self.team.gather({host.call.remote(self.method, stored): r for r, host in enumerate(self.team.hosts)})


@dataclass(frozen=True)
class _Team:
    """The handles of a group, as they also travel to other groups' workers."""

    role: str
    hosts: tuple[ActorHandle, ...]
    homes: tuple[ObjectRef, ...]
    """What each host says of itself, asked at the start: a dead one cannot be asked."""

    def gather(self, refs: Mapping[ObjectRef, int]) -> list[Any]:
        """Wait for all; results in rank order. Raises the WorkerError of the rank that fails first."""
        waiting = dict(refs)
        results: dict[int, Any] = {}
        while waiting:
            for ref in _arrived(waiting):
                rank = waiting.pop(ref)
                results[rank] = self._outcome(rank, ref)
                if isinstance(results[rank], WorkerError):
                    raise self._root_cause(results[rank], waiting)
        return [results[rank] for rank in sorted(results)]

    def kill(self) -> None:
        for host in self.hosts:
            ray.kill(host)

    def _root_cause(self, error: WorkerError, waiting: Mapping[ObjectRef, int]) -> WorkerError:
        """A death among the other ranks, if there is one: exceptions about lost connections follow from it."""
        if isinstance(error, WorkerDied) or not waiting:
            return error
        arrived = ray.wait(list(waiting), num_returns=len(waiting), timeout=GRACE)[0]
        outcomes = (self._outcome(waiting[ref], ref) for ref in arrived)
        return next((outcome for outcome in outcomes if isinstance(outcome, WorkerDied)), error)

    def _outcome(self, rank: int, ref: ObjectRef) -> Any:
        """A rank's result, or the WorkerError in its place."""
        try:
            value = ray.get(ref)
        except RayActorError as error:
            return self._death(rank, error)
        except RayError as error:  # such as a result that does not pickle
            return Failure.of(error).as_error(self.role, rank, self._home(rank).host)
        return value.as_error(self.role, rank, self._home(rank).host) if isinstance(value, Failure) else value

    def _home(self, rank: int) -> Home:
        try:
            return ray.get(self.homes[rank], timeout=5)
        except RayError:
            return Home("an unknown host", 0, "")

    def _death(self, rank: int, error: RayActorError) -> WorkerDied:
        home = self._home(rank)
        cause = f"WorkerDied: process {home.pid} died (a signal, the out-of-memory killer, or a crash of native code)"
        details = f"Its log is {home.log or 'not known'}\n{_last_lines(home.log)}\nRay says: {error}"
        return WorkerDied(self.role, rank, home.host, cause, details)


def _arrived(waitables: Mapping[Any, int]) -> list[Any]:
    """Wait for one; return all that have arrived, so that none starves behind a busy first."""
    first = ray.wait(list(waitables), num_returns=1)[0]
    return ray.wait(list(waitables), num_returns=len(waitables), timeout=0)[0] or first


def _last_lines(path: str) -> str:
    """The end of a log, where it can be read from here."""
    try:
        lines = Path(path).read_text(errors="replace").splitlines()[-LOG_LINES:]
    except OSError:
        return "(not readable from here)"
    return "\n".join(f"  | {line}" for line in lines)
