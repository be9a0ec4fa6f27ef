"""A run from start to end as its folder records it: configuration, seeds, trackers, and how it ended."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from verl.config import PPOConfig, SFTConfig
from verl.config.root import TrainerConfig
from verl.tracking import Tracking, record_end, record_start

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Run:
    """What a run writes to."""

    folder: Path
    tracking: Tracking


def run_folder(trainer: TrainerConfig) -> Path:
    """The folder that holds everything of a run."""
    name = trainer.experiment_name or "default"
    return Path(trainer.default_local_dir or Path("checkpoints") / trainer.project_name / name).absolute()


@contextmanager
def recorded_run(config: PPOConfig | SFTConfig, total_steps: int) -> Iterator[Run]:
    """Open a run's folder and trackers; write how it ended, with the reason, whatever happens inside."""
    trainer = config.trainer
    folder = run_folder(trainer)
    plain = dataclasses.asdict(config)
    data_seed = config.data.seed if config.data.seed is not None else trainer.seed
    record_start(folder, plain, {"trainer": trainer.seed, "data": data_seed})
    tracking = Tracking(
        trainer.project_name,
        trainer.experiment_name or folder.name,
        trainer.logger,
        plain,
        trainer.group_name,
        folder,
        total_steps,
    )
    try:
        yield Run(folder, tracking)
    except BaseException as error:
        tracking.finish("failed")
        reason = str(error).strip().splitlines()
        try:
            record_end(folder, "failed", reason[0] if reason else type(error).__name__)
        except OSError as second:  # such as a full disk, which is not to hide why the run ended
            logger.error("How the run ended could not be written to %s: %s", folder, second)
        raise
    tracking.finish("finished")
    record_end(folder, "finished")
