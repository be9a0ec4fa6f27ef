"""Weights & Biases. Without an account or network: WANDB_MODE=offline, and `wandb sync` later.

The entity is whatever WANDB_ENTITY says, else the account's own. A resumed run continues its curve: the id of the run
is kept in the run folder, and steps that the service has already are ignored by it (they are equal).
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import wandb

from verl.config.secrets import redact
from verl.tracking.base import Outcome, RunInfo
from verl.tracking.run_folder import write_atomically


class WandbTracker:
    """Logs to one wandb run, whose files lie below the run folder."""

    def __init__(self, run: RunInfo) -> None:
        self._info = run
        self._id_file = run.folder / "wandb_id.txt"
        self._run: Any = None

    def start_from(self, step: int) -> None:
        info = self._info
        info.folder.mkdir(parents=True, exist_ok=True)
        earlier = self._id_file.read_text(encoding="utf-8").strip() if step and self._id_file.exists() else None
        with _arguments_without_secrets():
            self._run = wandb.init(
                project=info.project_name,
                name=info.experiment_name,
                group=info.group_name,
                entity=os.environ.get("WANDB_ENTITY") or None,
                config=dict(info.config),
                dir=str(info.folder),
                id=earlier,
                resume="allow" if earlier else None,
            )
        write_atomically(self._id_file, self._run.id + "\n")

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        self._run.log(dict(metrics), step=step)

    def finish(self, status: Outcome) -> None:
        if self._run is not None:
            self._run.finish(exit_code=0 if status == "finished" else 1)


@contextmanager
def _arguments_without_secrets() -> Iterator[None]:
    """wandb copies the command line to its files and to the service."""
    arguments = sys.argv
    sys.argv = redact(arguments)
    try:
        yield
    finally:
        sys.argv = arguments
