"""What may happen to a run: which of its processes gets a signal, and at which moment.

A moment is a call that the driver makes, so it is met exactly and in every run alike. By then the call is under way:

    generate         the first response of a batch is there, the others are being written
    validation       the same, while validating
    <role>.<method>  the workers of a role were just asked for it: `actor.update_policy`, `reward.score`, ...
    logged           the step's metrics are written
    saved            the driver has saved, or has begun to (`async_save`)
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from typing import Literal

EVENTS = "chaos.jsonl"
"""In the run folder: when the fault came, and when each step was done."""


@dataclass(frozen=True)
class Fault:
    """One signal, once."""

    victim: str
    """`driver`, `<role>-<rank>`, or the process id of a Ray daemon."""
    moment: str
    step: int
    """The first step, from this one on, that has such a moment; 0 is the start, before any."""
    signal: Literal["KILL", "STOP"] = "KILL"
    written: str = ""
    """Wait, with the call under way, until the run folder has a path like this (glob)."""
    delay: float = 0.0
    """Seconds from the moment to the signal, while the run goes on."""
    takes_workers: bool = False
    """Wait until a worker has died of it too: Ray's workers look for their node's daemon once a second only."""

    def to_json(self) -> str:
        return json.dumps(dataclasses.asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Fault | None:
        """None for an empty text: the run is left alone."""
        return cls(**json.loads(text)) if text else None
