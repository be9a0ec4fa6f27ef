"""Read a finished (or running) run folder and say in a small table what the training did.

Works from files alone (metrics.jsonl, status.json, config.yaml), so it can be called on any machine, at any time.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from rich.markup import escape
from rich.table import Table

from verl.tracking.console import VALIDATION, clock
from verl.tracking.file import read_lines
from verl.tracking.run_folder import CONFIG_FILE, METRICS_FILE, STATUS_FILE


class ReportError(ValueError):
    """A run folder cannot be reported on; the message says what is missing."""


@dataclass(frozen=True)
class Point:
    """A validation."""

    step: int
    generations: int
    """Responses that training had drawn until then: step x train_batch_size x n."""
    value: float


@dataclass(frozen=True)
class Run:
    """What a run folder holds."""

    folder: Path
    config: Mapping[str, Any]
    status: Mapping[str, Any]
    steps: list[dict[str, Any]]
    """The lines of metrics.jsonl in order of steps."""

    def option(self, key: str, default: Any = None) -> Any:
        """A value of the configuration by its dotted key."""
        value: Any = self.config
        for part in key.split("."):
            if not isinstance(value, Mapping) or part not in value:
                return default
            value = value[part]
        return value

    @property
    def generations_per_step(self) -> int:
        """Responses drawn in one training step."""
        return int(self.option("data.train_batch_size", 0)) * int(self.option("actor_rollout_ref.rollout.n", 1))

    @property
    def num_steps(self) -> int:
        """Last step that was logged."""
        return int(self.steps[-1]["step"])

    @property
    def seconds(self) -> float | None:
        """Time spent in training steps, over all resumptions; start-up and the first validation do not count."""
        times = [line["timing_s/step"] for line in self.steps if line.get("timing_s/step") is not None]
        return sum(times) if times else None

    @property
    def headlines(self) -> list[str]:
        """The metrics `val-core/<data_source>/acc/mean@N` of this run."""
        names = {name for line in self.steps for name, value in line.items() if value is not None}
        return sorted(name for name in names if VALIDATION.fullmatch(name))

    def curve(self, metric: str) -> list[Point]:
        """All validations of one metric; a value that was not finite is left out."""
        found = [(int(line["step"]), line[metric]) for line in self.steps if line.get(metric) is not None]
        return [Point(step, step * self.generations_per_step, value) for step, value in found]


def read_run(folder: str | Path) -> Run:
    """Read a run folder. Raises ReportError when it has no metrics."""
    folder = Path(folder)
    path = folder / METRICS_FILE
    if not path.is_file():
        raise ReportError(
            f"{folder}: there is no {METRICS_FILE}; name the folder of a run (trainer.default_local_dir)."
        )
    steps = sorted(read_lines(path), key=lambda line: line["step"])
    if not steps:
        raise ReportError(f"{path} is empty: the run has not finished its first step.")
    config = folder / CONFIG_FILE
    status = folder / STATUS_FILE
    return Run(
        folder=folder,
        config=yaml.safe_load(config.read_text(encoding="utf-8")) if config.is_file() else {},
        status=json.loads(status.read_text(encoding="utf-8")) if status.is_file() else {},
        steps=steps,
    )


def report_table(run: Run) -> Table:
    """Held-out accuracy before and after, best point, time and generations."""
    table = Table(
        title=escape(f"{run.option('trainer.experiment_name') or run.folder.name}: {state(run)}"), show_header=False
    )
    table.add_column(style="dim")
    table.add_column()
    for metric in run.headlines:
        curve = run.curve(metric)
        first, last = curve[0], curve[-1]
        best = max(curve, key=lambda point: point.value)
        what = name_of(metric)
        table.add_row(f"{escape(what)} before", f"{first.value:.3f}" if first.step == 0 else "not measured")
        table.add_row(f"{escape(what)} after", f"[bold green]{last.value:.3f}[/]  (step {last.step})")
        table.add_row(f"{escape(what)} best", f"{best.value:.3f}  (step {best.step})")
    table.add_row("steps", f"{run.num_steps}")
    if run.seconds is not None:
        table.add_row("time in steps", f"{clock(run.seconds)}  ({run.seconds / max(run.num_steps, 1):.2f} s a step)")
    if run.generations_per_step:
        table.add_row("generations used", f"{run.num_steps * run.generations_per_step:,}")
    return table


def sentence(run: Run) -> str:
    """What the table means, in one sentence."""
    if not run.headlines:
        return "No validation was logged (set data.val_files): nothing can be said about held-out prompts."
    metric = run.headlines[0]
    curve = run.curve(metric)
    n = metric.rpartition("@")[2]
    share = "the share of held-out prompts that were answered right"
    if n != "1":
        share = f"the share of right answers among {n} to each held-out prompt"
    if curve[-1].step == 0:
        return f"Before training, {share} is {curve[0].value:.1%}; there is no measurement after it."
    if curve[0].step != 0:
        return f"At step {curve[-1].step}, {share} is {curve[-1].value:.1%}; there is no measurement before training."
    before, after = curve[0].value, curve[-1].value
    verb = "rose" if after > before else "fell" if after < before else "stayed the same:"
    trained = f"While the model trained on {curve[-1].generations:,} answers of its own"
    return f"{trained}, {share} {verb} from {before:.1%} to {after:.1%}."


def state(run: Run) -> str:
    """How the run stands, with the reason of a failure."""
    status = run.status.get("status", "status unknown")
    reason = run.status.get("reason", "")
    return f"{status} ({reason})" if reason else str(status)


def name_of(metric: str) -> str:
    """`held-out mean@8`, with the data source where it helps: `embedded held-out mean@8`."""
    match = VALIDATION.fullmatch(metric)
    return f"{match['source']}: held-out {match['what']}" if match else metric
