"""Ends a run whose metric has fallen from its best and stays there (`trainer.stop_on_collapse`).

Late collapses are what users of self-distillation report most, and the steps after one are paid for nothing. Nothing
of this is in a checkpoint: what was observed stands in metrics.jsonl, so a resumed run reads it there.
"""

from __future__ import annotations

import difflib
import logging
import math
from collections.abc import Callable
from pathlib import Path

from verl.config.stopping import StopOnCollapseConfig
from verl.tracking.file import read_lines
from verl.tracking.run_folder import METRICS_FILE
from verl.trainer.listeners import BaseListener, Step

logger = logging.getLogger(__name__)

UNSEEN_STEPS = 50
"""After so many steps without the metric its name is probably wrong."""


class CollapseGuard(BaseListener):
    """Follows one metric. It comes after those that make metrics, and before checkpoints are saved.

    Args:
        config: the metric, and what is too far for too long.
        folder: of the run.
        on_best: called with the step of each new best value.
    """

    def __init__(self, config: StopOnCollapseConfig, folder: Path, on_best: Callable[[int], None]) -> None:
        self.config = config
        self.metric = str(config.metric)
        self.folder = folder
        self.on_best = on_best
        self.best: float | None = None
        self.best_step = 0
        self.beyond: list[float] = []
        """The last observations in a row that were too far from the best."""
        self.num_unseen = 0

    def before_first(self, step: Step) -> None:
        path = self.folder / METRICS_FILE
        if step.number and path.is_file():
            for line in read_lines(path):
                if self.metric in line:
                    value = line[self.metric]
                    self._observe(line["step"], math.nan if value is None else value)
        self.after(step)

    def after(self, step: Step) -> None:
        if self.metric in step.metrics:
            self._observe(step.number, step.metrics[self.metric])
        else:
            self._ask_for_the_name(step)
        if len(self.beyond) >= self.config.patience:
            shown = ", ".join(f"{found:.4g}" for found in self.beyond)
            best = "never a number" if self.best is None else f"{self.best:.4g} at step {self.best_step}"
            step.stop(
                f"{self.metric} has collapsed: its best was {best}, the last {len(self.beyond)} observations were"
                f" {shown}, further away than trainer.stop_on_collapse.max_drop={self.config.max_drop:g} allows"
                f" (patience={self.config.patience})"
            )

    def _observe(self, step: int, value: float) -> None:
        """Take note of a value; one that is not a number is as bad as can be."""
        sign = 1 if self.config.mode == "max" else -1
        if math.isfinite(value) and (self.best is None or sign * value > sign * self.best):
            self.best, self.best_step = value, step
            self.on_best(step)
        is_near = self.best is None or sign * (self.best - value) <= self.config.max_drop
        self.beyond = [] if is_near and math.isfinite(value) else [*self.beyond, value]

    def _ask_for_the_name(self, step: Step) -> None:
        self.num_unseen += self.best is None
        if self.num_unseen != UNSEEN_STEPS:
            return
        near = difflib.get_close_matches(self.metric, step.metrics, 3)
        hint = f" Near it: {', '.join(near)}." if near else ""
        logger.warning(
            "trainer.stop_on_collapse.metric=%s was not logged in %d steps, so nothing watches for a collapse.%s",
            self.metric,
            UNSEEN_STEPS,
            hint,
        )
