"""The terminal: a progress bar over all steps and, above it, one line for each step with the numbers that matter.

Everything else is in metrics.jsonl. Without a terminal (log file, Slurm) the lines are plain and carry the time left
themselves.
"""

from __future__ import annotations

import re
import time
from collections.abc import Mapping

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.text import Text

from verl.tracking.base import Outcome, RunInfo

SHOWN = (
    # label, metric, format
    ("score", "critic/score/mean", ".3f"),
    ("loss", "actor/pg_loss", ".4g"),
    ("val loss", "val/loss", ".4g"),
    ("grad", "actor/grad_norm", ".3g"),
    ("length", "response_length/mean", ".0f"),
)
VALIDATION = re.compile(r"val-core/(?P<source>.+)/acc/(?P<what>mean@\d+)")
SMALLEST_PHASE = 0.05
"""Phases that take a smaller share of the step are not shown."""


class ConsoleTracker:
    """Prints to standard output."""

    def __init__(self, run: RunInfo, console: Console | None = None) -> None:
        self.total_steps = run.total_steps
        self._name = run.experiment_name
        self._console = console or Console()
        self._progress: Progress | None = None
        self._clock: tuple[float, int] | None = None  # time and step of the first line

    def start_from(self, step: int) -> None:
        if step:
            self._console.print(f"resumed at step {step}")
        if self._console.is_terminal and self.total_steps:
            self._progress = Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TimeElapsedColumn(),
                TextColumn("left"),
                TimeRemainingColumn(),
                console=self._console,
                transient=True,
            )
            self._progress.add_task(self._name, total=self.total_steps, completed=step)
            self._progress.start()

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        line = step_line(metrics, step, self.total_steps)
        if self._progress is None and (left := self._seconds_left(step)) is not None:
            line.append(f"  left {clock(left)}", style="dim")
        self._console.print(line, soft_wrap=True)
        if self._progress is not None:
            self._progress.update(self._progress.task_ids[0], completed=step)

    def finish(self, status: Outcome) -> None:
        if self._progress is not None:
            self._progress.stop()

    def _seconds_left(self, step: int) -> float | None:
        """From the mean time between lines so far; None while there is nothing to go by or nothing left."""
        now = time.monotonic()
        if self._clock is None:
            self._clock = (now, step)
        begin, first = self._clock
        if not self.total_steps or step <= first or step >= self.total_steps:
            return None
        return (now - begin) / (step - first) * (self.total_steps - step)


def step_line(metrics: Mapping[str, float], step: int, total_steps: int | None) -> Text:
    """One step in one line: its number, the shown metrics that it has, validation, seconds by phase."""
    width = len(str(total_steps or 0))
    line = Text(f"step {step:>{width}}" + (f"/{total_steps}" if total_steps else ""), style="bold")
    for label, name, form in SHOWN:
        if name in metrics:
            line.append(f"  {label} ", style="not bold dim").append(
                f"{metrics[name]:{form}}".ljust(5), style="not bold"
            )
    if stale := metrics.get("training/rollout_staleness"):
        line.append("  stale ", style="not bold dim").append(f"{stale:g}", style="not bold")
    found = [(match, value) for name, value in metrics.items() if (match := VALIDATION.fullmatch(name))]
    for match, value in found:
        source = f"{match['source']} " if len(found) > 1 else ""
        line.append(f"  val {source}{match['what']} ", style="not bold green").append(f"{value:.3f}", style="green")
    if "timing_s/step" in metrics:
        line.append(f"  {metrics['timing_s/step']:.1f} s", style="not bold")
        line.append(_phases(metrics), style="not bold dim")
    return line


def _phases(metrics: Mapping[str, float]) -> str:
    """` (gen 1.2, update_actor 0.7)`: seconds of the phases that matter."""
    total = metrics["timing_s/step"]
    phases = {
        name.removeprefix("timing_s/"): seconds
        for name, seconds in metrics.items()
        if name.startswith("timing_s/") and name != "timing_s/step" and seconds >= SMALLEST_PHASE * total
    }
    return f" ({', '.join(f'{name} {seconds:.1f}' for name, seconds in phases.items())})" if phases else ""


def clock(seconds: float) -> str:
    """Seconds as `m:ss` or `h:mm:ss`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
