"""`Tracking`: one object for the trainer, any number of trackers behind it.

Numbers must never cost a run: a tracker that raises (network down, no account) is reported once and left out from then
on, the others go on. Only a missing package is an error, because that is known, and mended, before the run starts.
metrics.jsonl is always written: it is what reports, comparisons and resumed runs read. So its tracker stays when the
disk is full, and writes with a later step what it could not write with this one.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from verl.config.secrets import redact
from verl.registry import TRACKERS
from verl.tracking.base import Outcome, RunInfo, Tracker

logger = logging.getLogger(__name__)

ALWAYS = "file"


class Tracking:
    """Fan-out to the trackers named in `default_backend`.

    Args:
        project_name: groups experiments in trackers that know projects.
        experiment_name: name of this run.
        default_backend: a name, or names, in `verl.registry.TRACKERS`; `file` is added when it is not among them.
        config: resolved configuration, kept by trackers that store one, without secrets.
        group_name: groups runs (seeds of one setting) in trackers that know groups.
        folder: the run folder; None: checkpoints/<project_name>/<experiment_name>.
        total_steps: last step of the run, for the progress bar.

    Raises:
        ValueError: an unknown backend (the message lists the known ones), or one whose package is not installed.
    """

    def __init__(
        self,
        project_name: str,
        experiment_name: str,
        default_backend: str | Sequence[str] = ("console", ALWAYS),
        config: Mapping[str, Any] | None = None,
        group_name: str | None = None,
        folder: str | os.PathLike[str] | None = None,
        total_steps: int | None = None,
    ) -> None:
        run_folder = Path(folder) if folder is not None else Path("checkpoints") / project_name / experiment_name
        run = RunInfo(project_name, experiment_name, run_folder, redact(config or {}), group_name, total_steps)
        names = [default_backend] if isinstance(default_backend, str) else list(default_backend)
        self._trackers: dict[str, Tracker] = {}
        self._has_started = False
        self._file_is_behind = False
        # The file comes first: whatever another tracker does to the process, the step is on disk by then.
        for name in dict.fromkeys([ALWAYS, *names]):
            tracker_class = _load(name)
            try:
                self._trackers[name] = tracker_class(run)
            except Exception as error:
                _warn(name, error)

    @property
    def active(self) -> list[str]:
        """Names of the trackers that still work."""
        return list(self._trackers)

    def start_from(self, step: int) -> None:
        """Say where the run stands before the first `log`: 0, or the step of the checkpoint it resumes from."""
        self._has_started = True
        self._for_each(lambda tracker: tracker.start_from(step))

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Log all metrics of one step; call it once for each step. Step 0 is the state before training."""
        if not self._has_started:
            self.start_from(0)
        numbers = {name: float(value) for name, value in metrics.items()}
        self._for_each(lambda tracker: tracker.log(numbers, step))

    def finish(self, status: Outcome = "finished") -> None:
        """Close all trackers; a second call does nothing. An error is logged when metrics.jsonl lacks steps."""
        if (file := self._trackers.pop(ALWAYS, None)) is not None:
            try:
                file.finish(status)
            except Exception as error:
                logger.error("The run's metrics are not all on disk: %s", error)
        self._for_each(lambda tracker: tracker.finish(status))
        self._trackers.clear()

    def _for_each(self, call: Callable[[Tracker], None]) -> None:
        for name, tracker in list(self._trackers.items()):
            try:
                call(tracker)
            except Exception as error:
                if name == ALWAYS:
                    self._note_file(error)
                else:
                    del self._trackers[name]
                    _warn(name, error)
            else:
                if name == ALWAYS:
                    self._note_file(None)

    def _note_file(self, error: Exception | None) -> None:
        """Say once that the file cannot be written, and once that it can again."""
        if error is not None and not self._file_is_behind:
            logger.warning("The metrics file cannot be written; every step tries again. Cause: %s", error)
        if error is None and self._file_is_behind:
            logger.info("The metrics file is written again, and no step is missing.")
        self._file_is_behind = error is not None


def _load(name: str) -> Callable[[RunInfo], Tracker]:
    try:
        return TRACKERS.load(name)
    except ImportError as error:
        raise ValueError(
            f"logger={name}: its package is not installed ({error}). Install it, or take"
            f" {name!r} out of trainer.logger."
        ) from error


def _warn(name: str, error: Exception) -> None:
    what = str(error).strip() or type(error).__name__
    logger.warning("The tracker %r failed and is left out from now on; the run goes on. Cause: %s", name, what)
