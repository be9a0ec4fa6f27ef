"""What a Ray group's calls, streams and receivers are while they are under way: see the protocols in `group`."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import ray
from ray import ObjectRef

from verl.single_controller.errors import WorkerError, WorkerLate
from verl.single_controller.ray_team import Due, Team, is_ready


@dataclass
class RayPending:
    """A call of some ranks."""

    method: str
    gather: Callable[[Mapping[ObjectRef, int], Due | None], list[Any]]
    """The group's: a failure ends it."""
    team: Team
    """As it was when the call began."""
    refs: dict[ObjectRef, int]
    collect: Callable[[list[Any]], Any]
    due: Due | None
    """The group's deadline for it."""
    on_outcome: Callable[[], None]

    @property
    def is_done(self) -> bool:
        return not ray.wait(list(self.refs), num_returns=len(self.refs), timeout=0)[1]

    def result(self, timeout: float | None = None) -> Any:
        due = self.due if timeout is None else Due(self.method, time.monotonic(), timeout)
        return self.collect(self.gather(self.refs, due))

    def outcome(self) -> Any | WorkerError:
        try:
            outcome = self.collect(self.team.gather(self.refs, self.due))
        except WorkerError as error:
            outcome = error
        self.on_outcome()
        return outcome


@dataclass(eq=False)
class RayStream:
    """A generator of one rank."""

    team: Team
    """As it was when the stream began."""
    rank: int
    items: Any
    """Ray's generator of references."""
    on_item: Callable[[], None]
    is_done: bool = False
    failure: WorkerError | None = None

    @property
    def refs(self) -> list[Any]:
        return [] if self.is_done else [self.items]

    def take(self) -> list[Any]:
        taken: list[Any] = []
        while not self.is_done and is_ready(self.items):
            try:
                item = self.team.outcome(self.rank, next(self.items))
            except StopIteration:
                self.is_done = True
                break
            if isinstance(item, WorkerError):
                self.is_done, self.failure = True, item
            else:
                taken.append(item)
                self.on_item()
        return taken


@dataclass(frozen=True)
class RayReceiver:
    """One method of some ranks, as it travels to another group's worker."""

    team: Team
    method: str
    ranks: tuple[int, ...]

    def send_each(
        self, payload: Any, ranks: Sequence[int] | None = None, timeout: float | None = None
    ) -> dict[int, Any | WorkerError]:
        refs = self._start(payload, ranks)
        late = ray.wait(list(refs), num_returns=len(refs), timeout=timeout)[1] if refs else []
        overdue = f"{self.method} gave no answer within {timeout} s."
        return {
            rank: self.team.blame(rank, overdue, WorkerLate) if ref in late else self.team.outcome(rank, ref)
            for ref, rank in refs.items()
        }

    def _start(self, payload: Any, ranks: Sequence[int] | None) -> dict[ObjectRef, int]:
        stored = ray.put(payload)  # once, however many receive it
        chosen = self.ranks if ranks is None else ranks
        return {self.team.hosts[rank].call.remote(self.method, stored): rank for rank in chosen}
