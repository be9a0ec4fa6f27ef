"""The Ray actors of a group as handles that travel, and what waiting for them can bring: results, failures, deaths."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
from ray import ObjectRef
from ray.actor import ActorHandle
from ray.exceptions import RayActorError, RayError

from verl.single_controller.errors import Failure, WorkerDied, WorkerError
from verl.single_controller.ray_host import Home, WorkerHost

GRACE = 1.0
"""Seconds that other ranks get to fail too after the first exception: a peer's death shows up as a lost connection."""
LOG_LINES = 20
"""Lines of a dead worker's log in the message."""


@dataclass(frozen=True)
class Team:
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
            for ref in arrived(waiting):
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
        """An error about a rank that did not report it itself, with the end of its log."""
        home = self._home(rank)
        return kind(self.role, rank, home.host, cause, _log_of(home))

    def end(self, rank: int) -> None:
        """End one process, whatever it is doing. Ray asks it to end itself, which a stopped one (SIGSTOP) cannot."""
        ray.kill(self.hosts[rank])
        home = self._home(rank)
        if home.host == socket.gethostname() and _is_ours(home.pid):
            with suppress(ProcessLookupError):
                os.kill(home.pid, signal.SIGKILL)

    def kill(self) -> None:
        for host in self.hosts:
            ray.kill(host)

    def _root_cause(self, error: WorkerError, waiting: Mapping[ObjectRef, int]) -> WorkerError:
        """A death among the other ranks, if there is one: exceptions about lost connections follow from it."""
        if isinstance(error, WorkerDied) or not waiting:
            return error
        others = ray.wait(list(waiting), num_returns=len(waiting), timeout=GRACE)[0]
        outcomes = (self.outcome(waiting[ref], ref) for ref in others)
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
            return Home("an unknown host", 0, "")

    def _death(self, rank: int, error: RayActorError) -> WorkerDied:
        home = self._home(rank)
        cause = f"WorkerDied: process {home.pid} died (a signal, the out-of-memory killer, or a crash of native code)"
        return WorkerDied(self.role, rank, home.host, cause, f"{_log_of(home)}\nRay says: {error}")


def arrived(waitables: Mapping[Any, int]) -> list[Any]:
    """Wait for one; return all that have arrived, so that none starves behind a busy first."""
    first = ray.wait(list(waitables), num_returns=1)[0]
    return ray.wait(list(waitables), num_returns=len(waitables), timeout=0)[0] or first


def is_ready(waitable: Any) -> bool:
    """Whether a reference, or the next item of a generator of them, can be had without waiting."""
    return bool(ray.wait([waitable], timeout=0)[0])


def _is_ours(pid: int) -> bool:
    """Whether a process is still the worker it was: ids are given out again."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().startswith(f"ray::{WorkerHost.__name__}".encode())
    except OSError:
        return False


def _log_of(home: Home) -> str:
    return f"Its log is {home.log or 'not known'}\n{_last_lines(home.log)}"


def _last_lines(path: str) -> str:
    """The end of a log, where it can be read from here."""
    try:
        lines = Path(path).read_text(errors="replace").splitlines()[-LOG_LINES:]
    except OSError:
        return "(not readable from here)"
    return "\n".join(f"  | {line}" for line in lines)
