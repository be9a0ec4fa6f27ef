"""TensorBoard event files below the run folder, or in TENSORBOARD_DIR when that is set."""

from __future__ import annotations

import os
from collections.abc import Mapping

from torch.utils.tensorboard import SummaryWriter

from verl.tracking.base import Outcome, RunInfo


class TensorboardTracker:
    """Writes scalars; `tensorboard --logdir <run folder>` shows them."""

    def __init__(self, run: RunInfo) -> None:
        self.log_dir = os.environ.get("TENSORBOARD_DIR") or str(run.folder / "tensorboard")
        self._writer: SummaryWriter | None = None

    def start_from(self, step: int) -> None:
        # purge_step hides what an interrupted run wrote after its checkpoint.
        self._writer = SummaryWriter(self.log_dir, purge_step=step + 1 if step else None)

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        if self._writer is None:
            raise RuntimeError("TensorboardTracker.log was called before start_from.")
        for name, value in metrics.items():
            self._writer.add_scalar(name, value, step)
        self._writer.flush()

    def finish(self, status: Outcome) -> None:
        if self._writer is not None:
            self._writer.close()
