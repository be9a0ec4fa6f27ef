"""Start again from the newest checkpoint when a worker was lost (`trainer.max_restarts`).

What chance has done to a run, a new start may mend: a killed process, a lost machine, a collective that hangs. What the
run has decided, or would only meet again, it does not: a stop because of wrong weights, failing scorers or bad numbers,
a mistake in the configuration or in the code. All roles end and start together, Ray too: what is left of a group
whose rank died is worth nothing, because its ranks meet in collectives, and nothing of the old ones can leak into the
new.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from verl.checkpoint import step_of
from verl.config.root import TrainerConfig
from verl.single_controller import DeadlineExceeded, WorkerDied, WorkerError
from verl.trainer.watchdog import Stalled

logger = logging.getLogger(__name__)

WOULD_REPEAT = {
    "AssertionError",
    "AttributeError",
    "CannotPack",
    "CheckpointError",
    "ConfigError",
    "FileNotFoundError",
    "ImportError",
    "InputError",
    "KeyError",
    "ModuleNotFoundError",
    "NameError",
    "NotImplementedError",
    "PermissionError",
    "RecordingError",
    "RewardErrors",
    "RunStopped",
    "TypeError",
    "ValueError",
    "WeightSyncError",
}
"""Exceptions of workers that the same inputs bring again."""


@dataclass(frozen=True)
class Restart:
    """Why roles are started again."""

    number: int
    """1 is the first one."""
    cause: str
    """In a line."""


@dataclass(frozen=True)
class RestartPolicy:
    """Which ends of a run are followed by a restart.

    Args:
        most: restarts of one run (`trainer.max_restarts`).
    """

    most: int

    def next(self, before: Restart | None, error: Exception) -> Restart | None:
        """The restart after `error`, when `before` was the last one; None: the run ends."""
        number = before.number + 1 if before else 1
        if number > self.most or not may_be_chance(error):
            return None
        return Restart(number, str(error).strip().splitlines()[0])


def may_be_chance(error: Exception) -> bool:
    """Whether a new start may not meet this again."""
    if isinstance(error, WorkerDied | DeadlineExceeded | Stalled):
        return True
    return isinstance(error, WorkerError) and _exception_name(error.cause) not in WOULD_REPEAT


def _exception_name(cause: str) -> str:
    """`package.module.Name: words` -> `Name`"""
    return cause.partition(":")[0].rpartition(".")[2]


def with_restarts(policy: RestartPolicy, attempt: Callable[[Restart | None], None]) -> None:
    """Run `attempt` until it returns, or fails for good. It is told which restart it is; None: the first start."""
    restart: Restart | None = None
    while True:
        try:
            return attempt(restart)
        except Exception as error:
            restart = policy.next(restart, error)
            if restart is None:
                raise
            logger.error("%s: %s", type(error).__name__, error)
        # outside of `except`, so that nothing keeps the frames of what failed, and the workers they hold
        logger.warning("Restart %d of %d (trainer.max_restarts).", restart.number, policy.most)


class OwnCheckpoints:
    """Finds where a restart goes on: only at what this run has saved or was told to begin with.

    With `resume_mode=auto` that is the newest checkpoint of the folder. With the other modes the folder may hold
    checkpoints of an earlier run, which must not be taken for this one's.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._foreign = self._identities()

    def resumed(self, trainer: TrainerConfig) -> TrainerConfig:
        """`trainer` with the `resume_mode` of a restart."""
        own = [path for identity, path in self._identities().items() if identity not in self._foreign]
        if trainer.resume_mode == "auto" or not own:
            return trainer
        return replace(trainer, resume_mode="resume_path", resume_from_path=str(max(own, key=step_of)))

    def _identities(self) -> dict[tuple[str, int, int], Path]:
        """What is there now; a folder that was written again under its old name is another one."""
        folders = [
            path for path in self.folder.glob("global_step_*") if path.name.removeprefix("global_step_").isdigit()
        ]
        stats = [(path, path.stat()) for path in folders]
        return {(path.name, stat.st_ino, stat.st_mtime_ns): path for path, stat in stats}
