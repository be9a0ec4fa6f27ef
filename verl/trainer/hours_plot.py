"""Accuracy over hours of training as a picture: a panel for each model and data set, marks where the tables look."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean

from matplotlib.ticker import PercentFormatter

from verl.trainer.plot import INK, dress, label_colors, pictures
from verl.trainer.training_hours import Panel, TimedPoint


def draw_hours(panels: Sequence[Panel], hours: Sequence[float], path: str | os.PathLike[str]) -> Path:
    """Draw all panels into one PNG and return its path."""
    labels = list(dict.fromkeys(label for panel in panels for label in panel.runs))
    colors = label_colors(labels)
    with pictures(path, len(panels)) as places:
        for axes, panel in zip(places, panels, strict=True):
            for label in panel.runs:
                curves = panel.curves(label)
                for curve in curves:
                    axes.plot([p.hours for p in curve], [p.value for p in curve], color=colors[label], alpha=0.35)
                mean = mean_curve(curves)
                x, y = [p.hours for p in mean], [p.value for p in mean]
                axes.plot(x, y, color=colors[label], linewidth=3, label=label)
            longest = axes.get_xlim()[1]
            for limit in hours:
                if limit <= longest:
                    axes.axvline(limit, color=INK, linestyle=":", linewidth=1)
            axes.set_xlim(left=0)
            axes.set_xlabel("hours of training")
            axes.set_ylabel(f"held-out accuracy ({panel.metric.rpartition('/')[2]})")
            axes.set_title(f"{panel.data_set}, {panel.model}", loc="left", weight="bold")
            axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
            dress(axes, "lower right")
    return Path(path)


def mean_curve(curves: Sequence[Sequence[TimedPoint]]) -> list[TimedPoint]:
    """Mean time and mean value over seeds, at the steps that all of them have."""
    tables = [{point.step: point for point in curve} for curve in curves]
    steps = sorted(set(tables[0]).intersection(*tables[1:]))
    return [
        TimedPoint(step, fmean(table[step].hours for table in tables), fmean(table[step].value for table in tables))
        for step in steps
    ]
