"""Which engines may be trusted with requests: a state machine without processes, clocks or Ray, to be proven alone.

    STALE       no proof of the current weights: just started, or a weight sync is under way
    HEALTHY     has the current weights, proven by version, digests and probe: the only state that is given requests
    SUSPECT     late, or an answer that cannot be right: believed no more, and ended
    DEAD        its process is gone
    RESTARTING  a new process is being started in its place

    STALE --VERIFIED--> HEALTHY --SYNC_BEGAN/SLEPT--> STALE    (every step)
    anything --DOUBTED/DIED--> SUSPECT/DEAD --RESTARTED--> RESTARTING --STARTED--> STALE

So a dead engine comes back only as a STALE one, and a STALE one serves only after a sync that was verified. SUSPECT has
no way back but through DEAD: an engine that gave one wrong answer has given others that nobody noticed.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class State(Enum):
    """See the module."""

    STALE = "stale"
    HEALTHY = "healthy"
    SUSPECT = "suspect"
    DEAD = "dead"
    RESTARTING = "restarting"


class Event(Enum):
    """What can be told of an engine."""

    SYNC_BEGAN = "sync began"
    """Its weights are about to be replaced."""
    SLEPT = "slept"
    """It gave its weights up, to leave its memory to the trainer."""
    VERIFIED = "verified"
    """The sync is over, and the engine was shown to compute with the new weights."""
    DOUBTED = "doubted"
    """It is overdue, or what it answered cannot be right."""
    DIED = "died"
    """Its process has ended, or has been ended."""
    RESTARTED = "restarted"
    """A new process has been asked for; costs one restart of the budget."""
    STARTED = "started"
    """The new engine is constructed."""


TRANSITIONS = {
    (State.STALE, Event.SYNC_BEGAN): State.STALE,
    (State.HEALTHY, Event.SYNC_BEGAN): State.STALE,
    (State.HEALTHY, Event.SLEPT): State.STALE,
    (State.STALE, Event.VERIFIED): State.HEALTHY,
    (State.STALE, Event.DOUBTED): State.SUSPECT,
    (State.HEALTHY, Event.DOUBTED): State.SUSPECT,
    (State.RESTARTING, Event.DOUBTED): State.SUSPECT,
    (State.STALE, Event.DIED): State.DEAD,
    (State.HEALTHY, Event.DIED): State.DEAD,
    (State.SUSPECT, Event.DIED): State.DEAD,
    (State.RESTARTING, Event.DIED): State.DEAD,
    (State.DEAD, Event.RESTARTED): State.RESTARTING,
    (State.RESTARTING, Event.STARTED): State.STALE,
}
"""Everything that may happen; anything else is a mistake of the caller."""


class IllegalTransition(RuntimeError):
    """An engine was told something that cannot happen in its state."""


@dataclass(frozen=True)
class Health:
    """One engine's state."""

    state: State = State.STALE
    is_syncing: bool = False
    """A sync has begun in this process and is not verified: without it VERIFIED is illegal."""

    def after(self, event: Event) -> Health:
        """The health that follows; IllegalTransition when the event cannot happen now."""
        following = TRANSITIONS.get((self.state, event))
        if following is None or (event is Event.VERIFIED and not self.is_syncing):
            sync = " and gets no weights" if event is Event.VERIFIED and not self.is_syncing else ""
            raise IllegalTransition(f"A rollout engine that is {self.state.value}{sync} cannot be {event.value!r}.")
        return Health(following, is_syncing=event is Event.SYNC_BEGAN)


class Fleet:
    """The health of all engines, and how many restarts are left.

    Args:
        num_engines: all are STALE at first.
        max_restarts: RESTARTED may be told so often, of all engines together.
    """

    def __init__(self, num_engines: int, max_restarts: int) -> None:
        self.max_restarts = max_restarts
        self.num_restarts = 0
        self._health = [Health() for _ in range(num_engines)]

    def __getitem__(self, rank: int) -> Health:
        return self._health[rank]

    def ranks(self, *states: State) -> list[int]:
        """Engines in one of these states, in order."""
        return [rank for rank, health in enumerate(self._health) if health.state in states]

    @property
    def serving(self) -> list[int]:
        """Engines that may be given requests."""
        return self.ranks(State.HEALTHY)

    @property
    def is_complete(self) -> bool:
        """Whether every engine serves."""
        return len(self.serving) == len(self._health)

    @property
    def may_restart(self) -> bool:
        """Whether the budget allows one more restart."""
        return self.num_restarts < self.max_restarts

    def tell(self, rank: int, event: Event) -> None:
        """Something happened to an engine. Raises IllegalTransition, and nothing has changed."""
        following = self._health[rank].after(event)
        if event is Event.RESTARTED:
            if not self.may_restart:
                raise IllegalTransition(f"All {self.max_restarts} restarts of rollout engines are used up.")
            self.num_restarts += 1
        self._health[rank] = following
