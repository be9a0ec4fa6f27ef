"""The paper's tables from run folders: the best accuracy within so many hours of training, and final against best.

Hours are those spent in training steps (`timing_s/step` of metrics.jsonl), so neither validation nor start-up nor a
restart counts, and steps that a resumed run did again count once. The best of a run is chosen on the prompts it is
measured on, and so is too good by chance the more often a run was validated; the final one is not. Both are shown.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from statistics import fmean

from verl.trainer.compare import common_metric
from verl.trainer.report import ReportError, Run

SECONDS_PER_HOUR = 3600.0
NOTES = (
    "Per cent of right answers, mean over seeds [smallest-largest]. Hours are those in training steps. *: a seed ended"
    " before. The best is chosen on the very prompts it is measured on, and so is too good by chance; the final is not."
)


@dataclass(frozen=True)
class TimedPoint:
    """A validation."""

    step: int
    hours: float
    """Of training before it."""
    value: float


@dataclass
class Panel:
    """One data set and one model: the runs of each method."""

    model: str
    data_set: str
    runs: dict[str, list[Run]] = field(default_factory=dict)
    """By label."""
    metric: str = ""

    def curves(self, label: str) -> list[list[TimedPoint]]:
        """Of each seed of a method."""
        return [timed_curve(run, self.metric) for run in self.runs.get(label, [])]


def timed_curve(run: Run, metric: str) -> list[TimedPoint]:
    """All validations of a run, in order. Raises ReportError when the run has no times."""
    if run.seconds is None and run.num_steps > 0:
        raise ReportError(f"{run.folder}: its metrics hold no timing_s/step, so hours of training are not known.")
    seconds, points = 0.0, []
    for line in run.steps:
        seconds += line.get("timing_s/step") or 0.0
        if line.get(metric) is not None:
            points.append(TimedPoint(int(line["step"]), seconds / SECONDS_PER_HOUR, line[metric]))
    return points


def best_within(curve: Sequence[TimedPoint], hours: float) -> float | None:
    """The best validation after at most so many hours of training; None: there was none."""
    return max((point.value for point in curve if point.hours <= hours), default=None)


def group_panels(labelled: Iterable[tuple[str, Run]], metric: str | None) -> list[Panel]:
    """Runs by model and data set, then by label.

    Args:
        metric: for all of them; None: the first headline metric that the runs of a panel share.
    """
    panels: dict[tuple[str, str], Panel] = {}
    for label, run in labelled:
        key = model_name(run), data_set_name(run)
        panels.setdefault(key, Panel(*key)).runs.setdefault(label, []).append(run)
    for panel in panels.values():
        panel.metric = metric or common_metric([run for runs in panel.runs.values() for run in runs])
    return sorted(panels.values(), key=lambda panel: (panel.model, panel.data_set))


def model_name(run: Run) -> str:
    """Last part of the model's path."""
    return Path(str(run.option("actor_rollout_ref.model.path", "model"))).name


def data_set_name(run: Run) -> str:
    """The folder of the validation data, which is how data sets are told apart."""
    files = run.option("data.val_files") or run.option("data.train_files") or []
    return Path(files[0]).absolute().parent.name if files else "data"


def hours_tables(panels: Sequence[Panel], hours: Sequence[float]) -> str:
    """Markdown: for each model one row for each method, one column for each data set, in per cent.

    A cell holds the best within each number of hours, then a second table final and best; mean over seeds
    [smallest-largest]. `*`: a seed had trained for less time when it ended.
    """
    blocks: list[str] = []
    names = " / ".join(f"{limit:g} h" for limit in hours)
    for model, group in groupby(panels, key=lambda panel: panel.model):
        own = list(group)
        measure = ", ".join(sorted({panel.metric.rpartition("/")[2] for panel in own}))
        blocks.append(_table(f"{model}: best {measure} within {names}", own, lambda curves: _within(curves, hours)))
        blocks.append(_table(f"{model}: final / best {measure}", own, _final_and_best))
    return "\n\n".join(blocks)


def _table(title: str, panels: Sequence[Panel], cell: Callable[[list[list[TimedPoint]]], str]) -> str:
    labels = list(dict.fromkeys(label for panel in panels for label in panel.runs))
    lines = [f"| {title} | {' | '.join(panel.data_set for panel in panels)} |", "|" + "---|" * (len(panels) + 1)]
    everything = [[curve for label in panel.runs for curve in panel.curves(label)] for panel in panels]
    lines.append(f"| before training | {' | '.join(map(_before, everything))} |")
    for label in labels:
        lines.append(f"| {label} | {' | '.join(cell(panel.curves(label)) for panel in panels)} |")
    return "\n".join(lines)


def _before(curves: list[list[TimedPoint]]) -> str:
    return _spread([curve[0].value for curve in curves if curve and curve[0].step == 0])


def _within(curves: list[list[TimedPoint]], hours: Sequence[float]) -> str:
    parts: list[str] = []
    for limit in hours:
        values = [value for curve in curves if (value := best_within(curve, limit)) is not None]
        is_short = any(curve and curve[-1].hours < limit for curve in curves)
        parts.append(_spread(values) + ("*" if is_short and values else ""))
    return " / ".join(parts)


def _final_and_best(curves: list[list[TimedPoint]]) -> str:
    finals = [curve[-1].value for curve in curves if curve]
    bests = [max(point.value for point in curve) for curve in curves if curve]
    return f"{_spread(finals)} / {_spread(bests)}"


def _spread(values: Sequence[float]) -> str:
    """Mean over seeds and the smallest and largest, in per cent."""
    if not values:
        return "-"
    mean = f"{100 * fmean(values):.1f}"
    return mean if len(values) == 1 else f"{mean} [{100 * min(values):.1f}-{100 * max(values):.1f}]"
