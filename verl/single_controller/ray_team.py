"""The Ray actors of a group as handles that travel, and what waiting for them can bring: results, failures, deaths."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
from ray import ObjectRef
from ray.actor import ActorHandle
from ray.exceptions import RayActorError, RayError

from verl.single_controller.errors import DeadlineExceeded, Failure, WorkerDied, WorkerError, WorkerLate
from verl.single_controller.group import Standing
from verl.single_controller.processes import ProcessId, end, is_stopped, resident_bytes
from verl.single_controller.ray_host import Home
from verl.single_controller.ray_nodes import describe_all, is_here
from verl.single_controller.resources import alive_nodes

GRACE = 1.0
"""Seconds that other ranks get to fail too after the first exception: a peer's death shows up as a lost connection."""
LOSS_NOTICED = 30.0
"""Seconds that Ray gets to tell of a rank whose process is gone: of a lost machine it learns after some 15 s."""
LOG_LINES = 20
"""Lines of a dead worker's log in the message."""


@dataclass(frozen=True)
class Due:
    """When a call has to be done."""

    method: str
    begin: float
    """On the monotonic clock."""
    seconds: float
    key: str = ""
    """Of the configuration."""

    def seconds_left(self) -> float:
        """Never below 0: what has arrived by now is still taken."""
        return max(0.0, self.begin + self.seconds - time.monotonic())


@dataclass(frozen=True)
class Team:
    """The handles of a group, as they also travel to other groups' workers."""

    role: str
    hosts: tuple[ActorHandle, ...]
    homes: tuple[ObjectRef, ...]
    """What each host says of itself, asked at the start: a dead one cannot be asked."""

    def gather(self, refs: Mapping[ObjectRef, int], due: Due | None = None) -> list[Any]:
        """Wait for all; results in rank order. Raises the WorkerError of the rank that fails first, or is late."""
        waiting = dict(refs)
        results: dict[int, Any] = {}
        while waiting:
            refs_here = arrived(waiting, due.seconds_left() if due else None)
            if not refs_here and due:
                raise self._too_late(sorted(waiting.values()), due)
            for ref in refs_here:
                rank = waiting.pop(ref)
                results[rank] = self.outcome(rank, ref)
                if isinstance(results[rank], WorkerError):
                    raise self._root_cause(results[rank], waiting)
        return [results[rank] for rank in sorted(results)]

    def with_host(self, rank: int, host: Any) -> Team:
        """The same team with another process for one rank."""
        hosts, homes = list(self.hosts), list(self.homes)
        hosts[rank], homes[rank] = host, host.home.remote()
        return Team(self.role, tuple(hosts), tuple(homes))

    def blame(self, rank: int, cause: str, kind: type[WorkerError]) -> WorkerError:
        """An error about a rank that did not report it itself: the end of its log, and its stacks if it is late."""
        home = self._home(rank)
        where = [f"{self.role} {each}" for each in self.standing([rank])] if issubclass(kind, WorkerLate) else []
        return kind(self.role, rank, home.host, cause, "\n".join([_log_of(home), *where]))

    def kill(self, ranks: Sequence[int] | None = None) -> None:
        """End all processes, or those of some ranks.

        Ray asks a process to end itself, and it says in its log where it was; one that is stopped does not hear it, and
        is killed where it is on this machine. So is a whole group, of which nobody wants to know any more.
        """
        chosen = range(len(self.hosts)) if ranks is None else ranks
        for rank, home in self._known_homes().items():
            if rank in chosen and is_here(home) and (ranks is None or is_stopped(home.process)):
                end(home.process)
        for rank in chosen:
            ray.kill(self.hosts[rank])

    def standing(self, ranks: Sequence[int] | None = None) -> list[Standing]:
        """Where ranks are, or all of them; also on other machines."""
        homes = self._known_homes()
        chosen = [rank for rank in (range(len(self.hosts)) if ranks is None else ranks) if rank in homes]
        reports = describe_all([homes[rank] for rank in chosen])
        return [
            Standing(rank, homes[rank].host, homes[rank].process.pid, report)
            for rank, report in zip(chosen, reports, strict=True)
        ]

    def resident_bytes(self) -> list[int]:
        return [resident_bytes(home.process) for home in self._known_homes().values() if is_here(home)]

    def _known_homes(self) -> dict[int, Home]:
        """By rank, of those whose process has come up."""
        ranks = {home: rank for rank, home in enumerate(self.homes)}
        known: dict[int, Home] = {}
        for ref in ray.wait(list(ranks), num_returns=len(ranks), timeout=0)[0]:
            try:
                known[ranks[ref]] = ray.get(ref)
            except RayError:  # it died before it could say
                continue
        return dict(sorted(known.items()))

    def _too_late(self, ranks: list[int], due: Due) -> DeadlineExceeded:
        standing = self.standing(ranks)
        silent = (each for each in standing if not each.report.can_answer)
        first = next(silent, standing[0] if standing else None)
        cause = (
            f"DeadlineExceeded: {due.method} gave no result within {due.seconds:g} s{due.key and f' ({due.key})'}."
            f" Still awaited: rank(s) {', '.join(map(str, ranks))} of {len(self.hosts)}"
        )
        details = "\n".join(f"{self.role} {each}" for each in standing) or "Their processes have not come up."
        rank, host = (first.rank, first.host) if first else (ranks[0], "an unknown host")
        return DeadlineExceeded(self.role, rank, host, cause, details)

    def _how(self, home: Home) -> str:
        if home.node and home.node not in alive_nodes():
            lost = [str(rank) for rank, each in self._known_homes().items() if each.node == home.node]
            return f"its node was lost (Ray's {home.node[:12]}), and {self.role} rank(s) {', '.join(lost)} with it"
        return f"process {home.process.pid} died (a signal, the out-of-memory killer, or a crash of native code)"

    def _root_cause(self, error: WorkerError, waiting: Mapping[ObjectRef, int]) -> WorkerError:
        """A death among the other ranks, if there is one: exceptions about lost connections follow from it."""
        if isinstance(error, WorkerDied) or not waiting:
            return error
        silent = ray.wait(list(waiting), num_returns=len(waiting), timeout=GRACE)[1]
        if silent and not all(each.report.can_answer for each in self.standing([waiting[ref] for ref in silent])):
            ray.wait(silent, num_returns=1, timeout=LOSS_NOTICED)
        told = ray.wait(list(waiting), num_returns=len(waiting), timeout=0)[0]
        outcomes = (self.outcome(waiting[ref], ref) for ref in told)
        return next((outcome for outcome in outcomes if isinstance(outcome, WorkerDied)), error)

    def outcome(self, rank: int, ref: ObjectRef) -> Any:
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
            return Home("an unknown host", ProcessId(0, 0), "")

    def _death(self, rank: int, error: RayActorError) -> WorkerDied:
        home = self._home(rank)
        return WorkerDied(
            self.role, rank, home.host, f"WorkerDied: {self._how(home)}", f"{_log_of(home)}\nRay says: {error}"
        )


def arrived(waitables: Mapping[Any, int], timeout: float | None = None) -> list[Any]:
    """Wait for one; return all that have arrived, so that none starves behind a busy first. None after `timeout`."""
    first = ray.wait(list(waitables), num_returns=1, timeout=timeout)[0]
    return ray.wait(list(waitables), num_returns=len(waitables), timeout=0)[0] or first


def is_ready(waitable: Any) -> bool:
    """Whether a reference, or the next item of a generator of them, can be had without waiting."""
    return bool(ray.wait([waitable], timeout=0)[0])


def _log_of(home: Home) -> str:
    return f"Its log is {home.log or 'not known'}\n{_last_lines(home.log)}"


def _last_lines(path: str) -> str:
    """The end of a log, where it can be read from here."""
    try:
        lines = Path(path).read_text(errors="replace").splitlines()[-LOG_LINES:]
    except OSError:
        return "(not readable from here)"
    return "\n".join(f"  | {line}" for line in lines)
