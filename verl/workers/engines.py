"""The engines as processes with a health: who may serve, and what becomes of one that may not.

An engine that died, hangs or gave an impossible answer is ended and another process is started in its place, while the
rest go on (`fail` does not wait). It comes back without weights; `engine_sync` gives it the current ones and the proof
that they arrived. How often that may happen in a run is a budget: an engine that dies again and again has a cause that
somebody must see.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable
from typing import Any

from verl.single_controller import Pending, WorkerDied, WorkerError, WorkerGroup, WorkerLate
from verl.workers.engine_health import Event, Fleet

logger = logging.getLogger(__name__)

START_TIMEOUT = 3600.0
"""Seconds a new engine may take to start. Large models compile for many minutes."""


class Engines:
    """All engines of a run.

    Args:
        group: the workers (`RolloutWorker`), one for each engine.
        max_restarts: `actor_rollout_ref.rollout.max_engine_restarts`.
    """

    def __init__(self, group: WorkerGroup, max_restarts: int) -> None:
        self.group = group
        self.fleet = Fleet(group.world_size, max_restarts)
        self._starting: dict[int, tuple[Pending, float]] = {}
        """New engines in place of ended ones, each with its deadline on the monotonic clock."""

    def fail(self, rank: int, error: WorkerError) -> None:
        """End an engine for what it did, and begin to start another one in its place.

        Raises WorkerError, with what to do about it, when no restart is left, or no machine to start it on.
        """
        if not isinstance(error, WorkerDied):
            self.fleet.tell(rank, Event.DOUBTED)
        may_restart = self.fleet.may_restart
        self.fleet.tell(rank, Event.DIED)
        if not may_restart:
            raise _last_failure(error, self.fleet.max_restarts)
        self._starting[rank] = (self.group.replace(rank), time.monotonic() + START_TIMEOUT)
        self.fleet.tell(rank, Event.RESTARTED)
        logger.warning(
            "%s\nA new engine is started in its place (restart %d of %d).",
            error,
            self.fleet.num_restarts,
            self.fleet.max_restarts,
        )

    def wait_until_started(self) -> None:
        """Wait for engines that are being restarted. One that cannot be started, or not in time, has failed again."""
        while self._starting:
            first = min(deadline for _, deadline in self._starting.values())
            self.group.wait_any([pending for pending, _ in self._starting.values()], max(0.0, first - time.monotonic()))
            for rank, (pending, deadline) in list(self._starting.items()):
                if pending.is_done:
                    del self._starting[rank]
                    outcome = pending.outcome()
                    if isinstance(outcome, WorkerError):
                        self.fail(rank, outcome)
                    else:
                        self.fleet.tell(rank, Event.STARTED)
                elif time.monotonic() > deadline:
                    del self._starting[rank]
                    self.fail(rank, self.group.blame(rank, f"not started within {START_TIMEOUT:g} s.", WorkerLate))

    def ask(self, ranks: Iterable[int], method: str, *args: Any, timeout: float) -> dict[int, Any | WorkerError]:
        """Call a method of some engines at once; what one failed with stands in the place of its answer.

        An engine that has not answered after `timeout` seconds has failed (WorkerLate).
        """
        pendings = {rank: self.group.start_on(rank, method, *args) for rank in ranks}
        deadline = time.monotonic() + timeout
        open_ones = dict(pendings)
        while open_ones and (left := deadline - time.monotonic()) > 0:
            self.group.wait_any(list(open_ones.values()), left)
            open_ones = {rank: pending for rank, pending in open_ones.items() if not pending.is_done}
        late = f"{method} gave no answer within {timeout:g} s."
        return {
            rank: self.group.blame(rank, late, WorkerLate) if rank in open_ones else pending.outcome()
            for rank, pending in pendings.items()
        }


def _last_failure(error: WorkerError, max_restarts: int) -> WorkerError:
    """The error that ends the run: the engine's own, and that this was one too many."""
    if max_restarts == 0:
        return error
    advice = (
        f"{max_restarts} rollout engines have been replaced in this run, and"
        f" actor_rollout_ref.rollout.max_engine_restarts={max_restarts} allows no more. If the cause is one that"
        " passes, raise it and start the run again: it goes on from its last checkpoint."
    )
    details = f"{error.details}\n{advice}" if error.details else advice
    return type(error)(error.role, error.rank, error.host, error.cause, details)
