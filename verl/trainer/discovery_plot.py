"""discovery@k as a picture: x = attempts (powers of two apart), y = share of questions solved, with bands."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.ticker import FuncFormatter, PercentFormatter

from verl.evaluation.discovery import LEVEL, Discovery
from verl.trainer.plot import dress, label_colors, picture


def draw_discovery(methods: Sequence[Discovery], path: str | os.PathLike[str]) -> Path:
    """Draw all methods into one PNG and return its path."""
    with picture(path) as axes:
        colors = label_colors([method.label for method in methods])
        for method in methods:
            _draw_method(axes, method, colors[method.label])
        axes.set_xscale("log", base=2)
        axes.set_xlim(left=1)
        axes.set_ylim(-0.02, 1.02)
        axes.margins(x=0.08)
        axes.set_xlabel("attempts k")
        axes.set_ylabel("discovery@k (questions solved)")
        axes.set_title(f"discovery@k, with {LEVEL:.0%} intervals", loc="left", weight="bold")
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
        axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
        dress(axes, "upper left")
    return Path(path)


def _draw_method(axes: Any, method: Discovery, color: str) -> None:
    attempts = np.arange(1, method.budget + 1)
    low, high = method.band
    axes.fill_between(attempts, low, high, step="post", color=color, alpha=0.15, linewidth=0, zorder=2)
    axes.plot(attempts, method.mean, drawstyle="steps-post", color=color, linewidth=2.5, zorder=3, label=method.label)
    axes.annotate(
        f"{method.mean[-1]:.0%}",
        (attempts[-1], method.mean[-1]),
        xytext=(6, -4),
        textcoords="offset points",
        color=color,
        weight="bold",
    )
