"""A worker group of Ray actors.

Every wait of the driver is on all ranks at once, so that the first one that fails ends it: the others may sit in a
collective for ever. Then all are killed, and the error of the rank that caused it is raised.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import ray
from ray import ObjectRef, cloudpickle

from verl.config.placement import Seat
from verl.single_controller.dispatch import Call
from verl.single_controller.errors import WorkerDied, WorkerError
from verl.single_controller.group import Deadline, Pending, Receiver, Standing, Stream, WorkerGroup
from verl.single_controller.ray_calls import RayPending, RayReceiver, RayStream
from verl.single_controller.ray_host import WorkerHost
from verl.single_controller.ray_team import Due, Team, arrived
from verl.single_controller.resources import PROCESS_CPUS, ResourcePool
from verl.single_controller.worker import Worker

CLOSE_TIMEOUT = 10.0  # seconds for the workers' `close`


class RayWorkerGroup(WorkerGroup):
    """Workers as Ray actors, started without waiting: `ready`, or the first call, waits for them.

    Args:
        role: name used in messages and log files.
        worker_cls: the worker's class; sent by name where it can be imported, so only its workers load its imports.
        args: positional arguments of every worker's constructor.
        kwargs: keyword arguments of every worker's constructor.
        num_ranks: number of workers.
        pool: where they run; None puts them on any machine, without a GPU.
        seats: places of the ranks in the pool.
        env: environment variables of the workers' processes.
        log_dir: folder for `<role>-<rank>.log`; None leaves the output in Ray's session folder.
        deadlines: how long a call may take, by method.
    """

    def __init__(
        self,
        role: str,
        worker_cls: type[Worker],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
        num_ranks: int = 1,
        pool: ResourcePool | None = None,
        seats: Sequence[Seat] = (),
        env: Mapping[str, str] | None = None,
        log_dir: Path | None = None,
        deadlines: Mapping[str, Deadline] | None = None,
    ) -> None:
        super().__init__(role, worker_cls, num_ranks)
        self.deadlines = deadlines or {}
        self._pool, self._seats, self._env, self._log_dir = pool, tuple(seats), env, log_dir
        hosts = tuple(self._start_host(rank) for rank in range(num_ranks))
        self._team = Team(role, hosts, tuple(host.home.remote() for host in hosts))
        self._meeting_point = hosts[0].meeting_point.remote()
        self._recipe = ray.put(cloudpickle.dumps((worker_cls, args, kwargs or {})))  # pyright: ignore[reportPrivateImportUsage]
        self._begin = time.monotonic()
        self._closing: dict[Any, int] | None = {}
        """Calls of `close`; None: they are over."""
        self._created: dict[int, ObjectRef] = {rank: self._create(rank) for rank in range(num_ranks)}

    def ready(self) -> None:
        self._check_usable()
        self._gather({ref: rank for rank, ref in self._created.items()}, self._due("ready", self._begin))

    def receiver(self, method: str, ranks: Sequence[int] | None = None) -> Receiver:
        self._check_usable()
        chosen = tuple(range(self.world_size) if ranks is None else ranks)
        self._gather({self._created[rank]: rank for rank in chosen})  # the driver's calls wait for it, others' do not
        return RayReceiver(self._team, method, chosen)

    def blame(self, rank: int, cause: str, kind: type[WorkerError] = WorkerError) -> WorkerError:
        return self._team.blame(rank, cause, kind)

    def replace(self, rank: int) -> Pending:
        self._check_usable()
        if self._pool and (address := self._pool.lost_machine(self._seats[rank])):
            cause = "WorkerDied: its node was lost, and with it the place for another"
            raise WorkerDied(self.role, rank, address, cause)
        self._team.kill([rank])
        self._team = self._team.with_host(rank, self._start_host(rank))
        self._created[rank] = self._create(rank)
        return self._pending("replace", {self._created[rank]: rank}, lambda results: results[0])

    def wait_any(self, waited: Sequence[Pending | Stream], timeout: float | None = None) -> None:
        refs = [ref for each in waited for ref in cast(RayPending | RayStream, each).refs]
        if refs:
            ray.wait(refs, num_returns=1, timeout=timeout)

    def standing(self) -> list[Standing]:
        return self._team.standing()

    def resident_bytes(self) -> list[int]:
        return self._team.resident_bytes()

    def abort(self, error: Exception) -> None:
        self._failure = self._failure or error
        self._team.kill()

    def begin_shutdown(self) -> None:
        if self._is_shut_down:
            return
        self._is_shut_down = True
        if not self._failure:
            self._closing = {host.call.remote("close"): rank for rank, host in enumerate(self._team.hosts)}

    def shutdown(self) -> None:
        self.begin_shutdown()
        if self._closing is None:
            return
        if self._closing:
            ray.wait(list(self._closing), num_returns=len(self._closing), timeout=CLOSE_TIMEOUT)
        self._closing = None
        self._team.kill(range(self.world_size))  # by asking: Ray reports any other end on the console

    def _start_host(self, rank: int) -> Any:
        """A process for a rank, still without a worker."""
        pool, env = self._pool, self._env
        options = pool.options(self._seats[rank]) if pool else {"num_cpus": PROCESS_CPUS}
        devices = pool.visible_devices(self._seats[rank]) if pool else None
        log_path = str((self._log_dir / f"{self.role}-{rank}.log").absolute()) if self._log_dir else None
        actor_cls = ray.remote(WorkerHost).options(runtime_env={"env_vars": dict(env)} if env else None, **options)
        return actor_cls.remote(log_path, devices)

    def _create(self, rank: int) -> ObjectRef:
        """Begin to construct a rank's worker in its process."""
        nodes = [seat.node for seat in self._seats]
        local_rank = nodes[:rank].count(nodes[rank]) if nodes else rank
        host: Any = self._team.hosts[rank]
        return host.create.remote(self._meeting_point, rank, self.world_size, local_rank, sys.path, self._recipe)

    def _launch(self, method: str, calls: Mapping[int, Call], collect: Callable[[list[Any]], Any]) -> Pending:
        refs: dict[Any, int] = {
            self._team.hosts[rank].call.remote(method, *args, **kwargs): rank for rank, (args, kwargs) in calls.items()
        }
        return self._pending(method, refs, collect)

    def _launch_stream(self, rank: int, method: str, call: Call) -> Stream:
        (args, kwargs), host = call, cast(Any, self._team.hosts[rank])
        items = host.stream.options(num_returns="streaming").remote(method, *args, **kwargs)
        return RayStream(self._team, rank, items, self._count)

    def _stream(self, method: str, calls: Sequence[Call], wanted: range) -> Iterator[Any]:
        streams: dict[Any, int] = {
            host.stream.options(num_returns="streaming").remote(method, *args, **kwargs): rank
            for rank, (host, (args, kwargs)) in enumerate(zip(self._team.hosts, calls, strict=True))
        }
        return self._items(streams, wanted)

    def _items(self, streams: dict[Any, int], wanted: range) -> Iterator[Any]:
        """Items of all streams in order of arrival."""
        while streams:
            for stream in arrived(streams):
                try:
                    ref = next(stream)
                except StopIteration:
                    del streams[stream]
                    continue
                rank = streams[stream]
                item = self._gather({ref: rank})[0]
                if rank in wanted:
                    yield item

    def _gather(self, refs: Mapping[ObjectRef, int], due: Due | None = None) -> list[Any]:
        """Results in rank order; a failure ends the group."""
        if self._failure:
            raise self._failure
        try:
            results = self._team.gather(refs, due)
        except WorkerError as error:
            self.abort(error)
            raise self._failure or error from None  # what it was aborted with, if that is why a worker died
        self._count()
        return results

    def _count(self) -> None:
        self.num_arrived += 1

    def _due(self, method: str, begin: float) -> Due | None:
        """When a call must be done that was begun then."""
        deadline = self.deadlines.get(method)
        return Due(method, begin, deadline.seconds, deadline.key) if deadline else None

    def _pending(self, method: str, refs: dict[ObjectRef, int], collect: Callable[[list[Any]], Any]) -> RayPending:
        due = self._due(method, time.monotonic())
        return RayPending(method, self._gather, self._team, refs, collect, due, self._count)
