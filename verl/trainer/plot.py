"""Learning curves as a picture: x = generations, y = held-out accuracy; seeds thin, their mean thick.

`picture` and `dress` give all pictures of reports one look.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, PercentFormatter

from verl.trainer.compare import BASELINE, Method, comparisons
from verl.trainer.report import name_of

COLORS = ("#1f5fbf", "#2a9d5c", "#8e44ad", "#c0392b", "#16a0a0")
BASELINE_COLOR = "#e07b00"
INK = "#333333"
LABEL_HEIGHT = 0.04
"""Of the picture's height."""


@contextmanager
def picture(path: str | os.PathLike[str]) -> Iterator[Any]:
    """Axes to draw on, in our style; the PNG is written at the end. Makes the folder."""
    with pictures(path, 1) as (axes,):
        yield axes


@contextmanager
def pictures(path: str | os.PathLike[str], count: int) -> Iterator[list[Any]]:
    """`picture` with several axes, side by side and in rows of three."""
    style: dict[Any, Any] = {
        "font.size": 11,
        "text.color": INK,
        "axes.labelcolor": INK,
        "xtick.color": INK,
        "ytick.color": INK,
    }
    num_columns = min(count, 3)
    num_rows = -(-count // num_columns)
    with matplotlib.rc_context(style):
        figure = Figure(figsize=(8 * num_columns, 5 * num_rows), dpi=150, layout="constrained")
        yield [figure.add_subplot(num_rows, num_columns, place + 1) for place in range(count)]
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, format="png")


def dress(axes: Any, legend: str) -> None:
    """Grid, frame and legend."""
    axes.grid(color="#dddddd", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(loc=legend, frameon=True, framealpha=0.9, edgecolor="none")


def draw_curves(methods: Sequence[Method], metric: str, path: str | os.PathLike[str]) -> Path:
    """Draw all methods into one PNG and return its path."""
    with picture(path) as axes:
        colors = label_colors([method.label for method in methods])
        for method in methods:
            _draw_method(axes, method, colors[method.label])
        _mark_gain(axes, methods)
        _label(axes, methods, metric)
        _label_ends(axes, methods, colors)
    return Path(path)


def label_colors(labels: Sequence[str]) -> dict[str, str]:
    """A colour for each label; the baseline's is always the same."""
    others = iter(COLORS * len(labels))
    return {label: BASELINE_COLOR if label == BASELINE else next(others) for label in labels}


def _draw_method(axes: Any, method: Method, color: str) -> None:
    for curve in method.curves:
        x, y = [p.generations for p in curve], [p.value for p in curve]
        axes.plot(x, y, color=color, linewidth=1, alpha=0.35, zorder=2)
    mean = method.mean
    x, y = [p.generations for p in mean], [p.value for p in mean]
    seeds = f"{len(method.curves)} seed{'s' if len(method.curves) > 1 else ''}"
    axes.plot(x, y, color=color, linewidth=3, zorder=3, label=f"{method.label} ({seeds})", solid_capstyle="round")
    axes.plot(x[-1], y[-1], "o", color=color, markersize=7, zorder=4)


def _label_ends(axes: Any, methods: Sequence[Method], colors: dict[str, str]) -> None:
    """Final accuracies beside the ends of the curves, pushed apart where they would cover each other."""
    ends = sorted((method.mean[-1].value, method.mean[-1].generations, method.label) for method in methods)
    low, high = axes.get_ylim()
    gap = (high - low) * LABEL_HEIGHT
    places = apart([value for value, _, _ in ends], gap, high)
    for (value, x, label), place in zip(ends, places, strict=True):
        axes.annotate(
            f"{value:.1%}",
            (x, place),
            xytext=(9, -4),
            textcoords="offset points",
            color=colors[label],
            weight="bold",
            annotation_clip=False,
        )


def apart(values: Sequence[float], gap: float, highest: float) -> list[float]:
    """Ascending values moved as little as is simple, so that neighbours are `gap` apart and none is above `highest`."""
    places: list[float] = []
    for value in values:
        places.append(max(value, places[-1] + gap) if places else value)
    limit = highest
    for index in reversed(range(len(places))):
        places[index] = min(places[index], limit)
        limit = places[index] - gap
    return places


def _mark_gain(axes: Any, methods: Sequence[Method]) -> None:
    """An arrow from where a method reaches the baseline's final accuracy to where the baseline does."""
    found = [gain for gain in comparisons(methods) if gain.ratio is not None and gain.ratio > 1]
    if not found:
        return
    gain = max(found, key=lambda gain: gain.ratio or 0.0)
    begin = gain.generations or 0.0
    end = begin * (gain.ratio or 1.0)
    axes.annotate(
        "",
        (end, gain.target),
        xytext=(begin, gain.target),
        zorder=1,
        arrowprops={"arrowstyle": "<|-", "color": INK, "linestyle": "--", "linewidth": 1.2, "shrinkA": 0, "shrinkB": 0},
    )
    axes.annotate(
        f"{gain.ratio:.1f}x fewer generations",
        ((begin + end) / 2, gain.target),
        xytext=(0, 6),
        textcoords="offset points",
        ha="center",
        color=INK,
    )


def _label(axes: Any, methods: Sequence[Method], metric: str) -> None:
    values = [point.value for method in methods for curve in method.curves for point in curve]
    highest = max(values)
    axes.set_ylim(min(0.0, *values), 1.0 if highest > 0.75 else highest * 1.25 or 1.0)
    axes.set_xlim(left=0)
    axes.margins(x=0.08)
    axes.set_xlabel("generations (responses drawn for training)")
    axes.set_ylabel(f"held-out accuracy ({metric.rpartition('/')[2]})")
    axes.set_title(name_of(metric).partition(":")[0], loc="left", weight="bold")
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    dress(axes, "best")
