"""What a tracker is, and what it is told about the run.

The calls come in this order: constructor (no side effect on earlier results), `start_from` once the resumed step is
known, `log` once for each step, `finish`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

Outcome = Literal["finished", "failed", "interrupted"]
"""How a run ended."""


@dataclass(frozen=True)
class RunInfo:
    """The run as trackers see it."""

    project_name: str
    experiment_name: str
    folder: Path
    """The run folder; trackers write their files below it."""
    config: Mapping[str, Any] = field(default_factory=dict)
    """The resolved configuration as plain nested mappings."""
    group_name: str | None = None
    total_steps: int | None = None
    """Last step of the run, for the progress bar; None: not known."""


class Tracker(Protocol):
    """A place for metrics. Constructed as `Tracker(run: RunInfo)`; any method may raise, see `Tracking`."""

    def start_from(self, step: int) -> None:
        """The run stands at `step`: 0 is a new run, otherwise later steps seen earlier will be logged again."""
        ...

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Take all metrics of one step."""
        ...

    def finish(self, status: Outcome) -> None:
        """Flush and close."""
        ...
