"""Compare runs that differ in their algorithm: learning curves of all seeds, and who needs how many generations.

Runs are grouped by method. A method's curve is the mean over its seeds at the points that all of them reached. The
number that matters is sample efficiency: after how many generations a method's mean curve first reaches the final
accuracy of the baseline, interpolated linearly between validations.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from verl.trainer.report import Point, ReportError, Run

BASELINE = "GRPO"
NOT_SETTINGS = ("trainer", "vars", "data.seed", "ray_kwargs")
"""Parts of the configuration in which seeds of one method may differ."""


@dataclass(frozen=True)
class Method:
    """The runs of one method, one for each seed, and their curves of one metric."""

    label: str
    runs: list[Run]
    curves: list[list[Point]]

    @property
    def mean(self) -> list[Point]:
        """Mean over seeds at the steps that every seed has."""
        tables = [{point.step: point for point in curve} for curve in self.curves]
        steps = sorted(set(tables[0]).intersection(*tables[1:]))
        return [
            Point(step, tables[0][step].generations, fmean(table[step].value for table in tables)) for step in steps
        ]

    @property
    def finals(self) -> list[float]:
        return [curve[-1].value for curve in self.curves]

    @property
    def bests(self) -> list[float]:
        return [max(point.value for point in curve) for curve in self.curves]


def method_label(run: Run) -> str:
    """SDPO, SDPO+GRPO (a mix), GSPO, or for plain policy gradients the name of the estimator (GRPO, RLOO, ...)."""
    actor = "actor_rollout_ref.actor"
    mode = str(run.option(f"{actor}.policy_loss.loss_mode", "unknown"))
    estimator = str(run.option("algorithm.adv_estimator", "grpo")).upper()
    if mode == "vanilla":
        return estimator
    if mode == "sdpo" and run.option(f"{actor}.self_distillation.grpo_lambda", 0.0):
        return f"SDPO+{estimator}"
    return mode.upper()


def common_metric(runs: Sequence[Run]) -> str:
    """The first headline metric that all runs have."""
    shared = sorted(set(runs[0].headlines).intersection(*(run.headlines for run in runs[1:])))
    if not shared:
        have = "; ".join(f"{run.folder}: {', '.join(run.headlines) or 'none'}" for run in runs)
        raise ReportError(f"The runs have no validation metric in common. They have: {have}.")
    return shared[0]


def group_runs(labelled: Sequence[tuple[str, Run]], metric: str) -> list[Method]:
    """Group runs by label, baseline last."""
    groups: dict[str, list[Run]] = {}
    for label, run in labelled:
        groups.setdefault(label, []).append(run)
    methods = [Method(label, runs, [run.curve(metric) for run in runs]) for label, runs in groups.items()]
    for method in methods:
        if not method.mean:
            raise ReportError(
                f"The {method.label} runs were never validated at the same step; nothing can be averaged."
            )
    return sorted(methods, key=lambda method: method.label == BASELINE)


def generations_to(curve: Sequence[Point], target: float) -> float | None:
    """Generations at which a curve first reaches `target`, linear between points; None if it never does."""
    for before, after in zip([curve[0], *curve], curve, strict=False):
        if after.value >= target:
            if after.value == before.value:
                return float(after.generations)
            share = (target - before.value) / (after.value - before.value)
            return before.generations + share * (after.generations - before.generations)
    return None


@dataclass(frozen=True)
class Efficiency:
    """How much sooner a method reaches the baseline's final accuracy."""

    label: str
    baseline: str
    target: float
    """The baseline's final accuracy, mean over seeds."""
    generations: float | None
    """Until the method's mean curve reaches it; None: it never does."""
    ratio: float | None
    """The baseline's generations over the method's."""
    ratios: list[float]
    """The same for each seed of the method that reaches it."""
    num_seeds: int

    def __str__(self) -> str:
        goal = f"{self.baseline}'s final accuracy ({self.target:.3f})"
        if self.generations is None:
            return f"{self.label} does not reach {goal}."
        if self.ratio is None:
            return f"{self.label} has {goal} before training."
        spread = ""
        if self.num_seeds > 1 and self.ratios:
            lowest, highest = min(self.ratios), max(self.ratios)
            spread = f" (single seeds: {lowest:.1f}-{highest:.1f}, {len(self.ratios)} of {self.num_seeds} get there)"
        how = f"{self.ratio:.1f} times fewer" if self.ratio >= 1 else f"{1 / self.ratio:.1f} times more"
        when = f"after {self.generations:,.0f} generations"
        return f"{self.label} reaches {goal} {when}, {how} than {self.baseline}{spread}."


def efficiency(method: Method, baseline: Method) -> Efficiency:
    """Compare a method with the baseline."""
    end = baseline.mean[-1]
    needed = [generations_to(curve, end.value) for curve in (method.mean, *method.curves)]
    ratios = [end.generations / count if count else None for count in needed]
    return Efficiency(
        label=method.label,
        baseline=baseline.label,
        target=end.value,
        generations=needed[0],
        ratio=ratios[0],
        ratios=[ratio for ratio in ratios[1:] if ratio is not None],
        num_seeds=len(method.curves),
    )


def comparisons(methods: Sequence[Method]) -> list[Efficiency]:
    """Every method against GRPO; none when no run is GRPO."""
    baseline = next((method for method in methods if method.label == BASELINE), None)
    return [efficiency(method, baseline) for method in methods if baseline is not None and method is not baseline]


def markdown_table(methods: Sequence[Method]) -> str:
    """One row for each method: seeds, accuracy before, final and best as mean [min-max], generations, time."""
    lines = [
        "| method | seeds | before | final accuracy | best | generations | s/step |",
        "|---|---|---|---|---|---|---|",
    ]
    for method in methods:
        before = [curve[0].value for curve in method.curves if curve[0].step == 0]
        generations = sorted({f"{curve[-1].generations:,}" for curve in method.curves})
        seconds = [run.seconds / max(run.num_steps, 1) for run in method.runs if run.seconds is not None]
        cells = [
            method.label,
            str(len(method.runs)),
            f"{fmean(before):.3f}" if before else "-",
            _interval(method.finals),
            _interval(method.bests),
            " / ".join(generations),
            f"{fmean(seconds):.2f}" if seconds else "-",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _interval(values: Sequence[float]) -> str:
    mean = f"{fmean(values):.3f}"
    return mean if len(values) == 1 else f"{mean} [{min(values):.3f}-{max(values):.3f}]"


def differences(method: Method) -> list[str]:
    """Settings other than seeds and folders in which the runs of one method differ: then they are not just seeds."""
    tables = [_flat(run.config) for run in method.runs]
    keys = sorted(set().union(*tables))
    return [
        key
        for key in keys
        if not any(key == part or key.startswith(part + ".") for part in NOT_SETTINGS)
        and any(table.get(key) != tables[0].get(key) for table in tables)
    ]


def _flat(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in config.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return flat
