"""A run from start to end as its folder records it: configuration, seeds, trackers, and how it ended."""

from __future__ import annotations

import dataclasses
import logging
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from verl.config import PPOConfig, SFTConfig
from verl.config.root import TrainerConfig
from verl.single_controller.processes import ProcessId, answer_with_stacks, is_alive, this_process
from verl.tracking import Tracking, read_status, record_end, record_start, update_status
from verl.tracking.base import Outcome
from verl.trainer.interrupts import reason_of, stoppable

logger = logging.getLogger(__name__)


class RunFolderBusy(RuntimeError):
    """Another process is at work on the same run."""


@dataclass(frozen=True)
class Run:
    """What a run writes to."""

    folder: Path
    trainer: TrainerConfig
    plain_config: Mapping[str, Any]

    @contextmanager
    def tracking(self, total_steps: int) -> Iterator[Tracking]:
        """The trackers, for one attempt of the run; a later one opens them anew and goes on in the same places."""
        trainer = self.trainer
        name = trainer.experiment_name or self.folder.name
        tracking = Tracking(
            trainer.project_name, name, trainer.logger, self.plain_config, trainer.group_name, self.folder, total_steps
        )
        try:
            yield tracking
        except KeyboardInterrupt:
            tracking.finish("interrupted")
            raise
        except BaseException:
            tracking.finish("failed")
            raise
        tracking.finish("finished")

    def note_restart(self, number: int, cause: str, step: int) -> None:
        """Say that the roles were started again, why, and from where the run goes on."""
        logger.warning("Restart %d goes on from step %d. Cause: %s", number, step, cause)
        update_status(self.folder, restarts=number, last_restart={"cause": cause, "from_step": step})

    def note_early_end(self, step: int, reason: str) -> None:
        """Say that the run ended before its last step because it was to."""
        logger.info("The run ends with step %d: %s", step, reason)
        update_status(self.folder, ended_early={"step": step, "reason": reason})

    def record_failure(self, error: BaseException) -> None:
        """Set the final status."""
        self.record_bad_end("failed", _reason(error))

    def record_bad_end(self, outcome: Outcome, reason: str) -> None:
        """Set the final status, if that can still be written: a full disk is not to hide why the run ended."""
        try:
            record_end(self.folder, outcome, reason)
        except OSError as error:
            logger.error("How the run ended could not be written to %s: %s", self.folder, error)


def run_folder(trainer: TrainerConfig) -> Path:
    """The folder that holds everything of a run."""
    name = trainer.experiment_name or "default"
    return Path(trainer.default_local_dir or Path("checkpoints") / trainer.project_name / name).absolute()


@contextmanager
def recorded_run(config: PPOConfig | SFTConfig) -> Iterator[Run]:
    """Open a run's folder; write how it ended, with the reason, whatever happens inside.

    SIGTERM is an interrupt inside, and SIGUSR1 shows where the driver is, as it does for its workers.

    Raises:
        RunFolderBusy: a run in the same folder has not ended.
    """
    trainer = config.trainer
    run = Run(run_folder(trainer), trainer, dataclasses.asdict(config))
    _look_at_the_run_before(run.folder)
    answer_with_stacks()
    data_seed = config.data.seed if config.data.seed is not None else trainer.seed
    record_start(
        run.folder,
        run.plain_config,
        {"trainer": trainer.seed, "data": data_seed},
        process_started=this_process().started,
    )
    try:
        with stoppable():
            yield run
    except KeyboardInterrupt as error:
        run.record_bad_end("interrupted", reason_of(error))
        raise
    except BaseException as error:
        run.record_failure(error)
        raise
    record_end(run.folder, "finished")


def _look_at_the_run_before(folder: Path) -> None:
    """Never two runs in one folder; and one that could not say how it ended is mentioned."""
    status = read_status(folder)
    if status.get("status") != "running":
        return
    pid, host = status.get("pid", 0), status.get("host", "")
    if host == socket.gethostname() and is_alive(ProcessId(pid, status.get("process_started", -1))):
        raise RunFolderBusy(
            f"{folder} is the folder of a run that process {pid} is still at work on (since {status.get('started')})."
            " Wait for it, stop it, or choose another folder (trainer.default_local_dir)."
        )
    logger.warning(
        "The run before ended without saying so (killed? process %s on %s, since %s): %s",
        pid,
        host,
        status.get("started"),
        folder,
    )


def _reason(error: BaseException) -> str:
    """An error in a line."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
