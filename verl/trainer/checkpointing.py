"""When a run saves, what the driver adds to the workers' shards, and how it resumes.

The workers write model, optimizer, schedule, teacher and random state; the driver adds the step, the sampler's state,
the identity of the data and the resolved configuration before they begin, so that all of it is of one moment. By
default they write while training goes on, and rank 0 commits the folder (`verl.checkpoint`); the driver only asks after
each step whether that went well. A run that ends in the middle of that, for whatever reason, waits for it first.

A resumed run may be configured differently, and one line says how. What the saved state is made of must be as it was:
the model's shapes, its adapters, a teacher if one is needed (the workers check), the data, its order and its seed.
"""

from __future__ import annotations

import json
import logging
import shutil
import time
from pathlib import Path
from types import TracebackType

from verl.checkpoint import CheckpointError, Commit, begin_save, find_latest, newest_committed, verify
from verl.config.actor import CheckpointConfig
from verl.config.root import TrainerConfig
from verl.dataset import DataIdentity, StatefulSampler
from verl.single_controller import WorkerDied, WorkerError, WorkerGroup, WorkerLate
from verl.tracking.run_folder import CONFIG_FILE
from verl.trainer.disk import check_room
from verl.trainer.interrupts import StoppedForNow, is_asked_to_stop
from verl.trainer.resuming import check_data, note_changes

logger = logging.getLogger(__name__)

DRIVER_FILE = "trainer.json"


class RunCheckpoints:
    """The checkpoints of one run. As a context it stands around the steps: an error that leaves it, an interrupt too,
    waits until the checkpoint that is being written is whole (`trainer.timeout.save` at most), unless the ranks have
    failed; closing them soon after would lose it. It is always the error itself that goes on, but for a second
    interrupt, which ends the wait.

    Args:
        folder: the run folder; holds the resolved configuration.
        trainer: frequencies, resume mode, how many to keep.
        workers: the actor group, which writes and reads the shards.
        sampler: the order of the training rows.
        settings: whether to train on meanwhile, and whether to export a Hugging Face folder with each checkpoint.
        data: of the training data; a checkpoint of other data is refused.
    """

    def __init__(
        self,
        folder: Path,
        trainer: TrainerConfig,
        workers: WorkerGroup,
        sampler: StatefulSampler,
        settings: CheckpointConfig,
        data: DataIdentity,
    ) -> None:
        self.folder = folder
        self.trainer = trainer
        self.workers = workers
        self.sampler = sampler
        self.settings = settings
        self.data = data
        self.best_step: int | None = None
        """The newest checkpoint that is not later than this step is not pruned."""
        self._step_in_writing: int | None = None
        self._seconds = 0.0

    def __enter__(self) -> RunCheckpoints:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if error is not None and self._step_in_writing is not None:
            self._rescue(self._step_in_writing, error)

    def resume(self) -> int:
        """Load the checkpoint that `trainer.resume_mode` asks for. Returns its step; 0 when there is none to load.

        Raises CheckpointError when none is usable, when it does not fit this run, or when the disk has no room for the
        next one.
        """
        step = 0
        if path := self._to_resume():
            step = self._load(path)
            logger.info("Resuming from %s", path)
        if (self.trainer.save_freq > 0 or self.trainer.save_last) and not self.trainer.val_only:
            needed = sum(self.workers.checkpoint_bytes("hf_model" in self.settings.save_contents))
            check_room(self.folder, needed)
        return step

    def save_if_due(self, step: int, total_steps: int) -> bool:
        """Save when the frequency, the end of the run, or a request to stop says so. Returns whether it did.

        Raises:
            CheckpointError: the checkpoint before could not be written; after the last step, or when asked to stop,
                this one could not.
            StoppedForNow: the run was asked to stop before its last step, and this one is saved.
        """
        self._check_writing(wait=False)
        is_due = self.trainer.save_freq > 0 and step % self.trainer.save_freq == 0
        is_last = step == total_steps and (self.trainer.save_last or self.trainer.save_freq > 0)
        is_asked = step < total_steps and is_asked_to_stop()
        if is_due or is_last or is_asked:
            begin = time.perf_counter()
            self.save(step)
            self._seconds += time.perf_counter() - begin
        if step == total_steps or is_asked:
            self.finish()
        if is_asked:
            stop = StoppedForNow(step, goes_on=self.trainer.resume_mode == "auto")
            logger.info("%s", stop)
            raise stop
        return is_due or is_last

    def save(self, step: int) -> None:
        """Write one checkpoint, or (`async_save`) have it written; then the ones no longer kept are deleted.

        Raises CheckpointError, which names the newest whole checkpoint, when something cannot be written.
        """
        self.finish()
        try:
            partial = begin_save(self.folder, step)
            state = {"step": step, "sampler": self.sampler.state_dict(), "data": self.data.state_dict()}
            (partial / DRIVER_FILE).write_text(json.dumps(state, indent=2) + "\n", encoding="utf-8")
            if (config := self.folder / CONFIG_FILE).exists():
                shutil.copyfile(config, partial / CONFIG_FILE)
            if "hf_model" in self.settings.save_contents:
                self.workers.export_huggingface(str(partial / "actor" / "huggingface"))
            commit = Commit(partial, self.trainer.max_actor_ckpt_to_keep, self.best_step, (DRIVER_FILE,))
            self._step_in_writing = step
            self.workers.save_checkpoint(str(partial / "actor"), commit, self.settings.async_save)
        except (WorkerDied, WorkerLate):
            raise
        except (OSError, WorkerError) as error:
            raise self._failed(step, error) from error
        if not self.settings.async_save:
            self._step_in_writing = None

    def finish(self) -> None:
        """Wait for the checkpoint that is being written. Raises CheckpointError when it could not be."""
        self._check_writing(wait=True)

    def keep_best(self, step: int) -> None:
        """Keep what leads up to the best step, whatever number is kept."""
        self.best_step = step

    def take_seconds(self) -> float:
        """Seconds that saving has held up the run since the last call."""
        seconds, self._seconds = self._seconds, 0.0
        return seconds

    def _to_resume(self) -> Path | None:
        if self.trainer.resume_mode == "disable":
            return None
        if self.trainer.resume_mode == "resume_path":
            path = Path(str(self.trainer.resume_from_path)).expanduser()
            verify(path)
            return path
        return find_latest(self.folder)

    def _load(self, path: Path) -> int:
        if not (path / DRIVER_FILE).is_file():
            raise CheckpointError(f"{path} has no {DRIVER_FILE}: it is not the checkpoint of a run.")
        state = json.loads((path / DRIVER_FILE).read_text(encoding="utf-8"))
        changes = note_changes(path / CONFIG_FILE, self.folder / CONFIG_FILE)
        check_data(path, state, self.data, changes)
        self.sampler.load_state_dict(state["sampler"])
        self.workers.load_checkpoint(str(path / "actor"))
        return int(state["step"])

    def _check_writing(self, wait: bool) -> None:
        step = self._step_in_writing
        if step is None:
            return
        try:
            is_written = all(self.workers.checkpoint_is_written(wait))
        except (WorkerDied, WorkerLate):
            raise
        except WorkerError as error:
            raise self._failed(step, error) from error
        if is_written:
            self._step_in_writing = None

    def _rescue(self, step: int, error: BaseException) -> None:
        """Wait for the checkpoint in writing before `error` ends the run. Raises a second interrupt only."""
        self._step_in_writing = None
        logger.warning(
            "%s. Before that ends the work, the checkpoint of step %d, which is still being written, is waited for"
            " (trainer.timeout.save=%s; another signal ends the wait).",
            _in_a_line(error),
            step,
            self.trainer.timeout.save,
        )
        lost = f"The checkpoint of step {step} is lost, unless {self.folder}/global_step_{step} is there later"
        try:
            self.workers.checkpoint_is_written(True)
        except KeyboardInterrupt:
            logger.warning("%s: another signal ended the wait. %s", lost, self._kept())
            if not isinstance(error, KeyboardInterrupt):
                raise
        except Exception as failure:  # whatever it is, `error` was first
            logger.warning("%s: %s. %s", lost, _in_a_line(failure), self._kept())
        else:
            logger.info("The checkpoint of step %d is written.", step)

    def _failed(self, step: int, error: OSError | WorkerError) -> CheckpointError:
        """The error to raise; the half folder is removed, since its space may be what is missing."""
        self._step_in_writing = None
        free = shutil.disk_usage(self.folder).free
        for leftover in self.folder.glob(f"global_step_{step}.tmp*"):
            shutil.rmtree(leftover, ignore_errors=True)
        cause = error.cause if isinstance(error, WorkerError) else f"{type(error).__name__}: {error}"
        cause = cause.removeprefix("verl.checkpoint.errors.CheckpointError: ")
        return CheckpointError(
            f"The checkpoint of step {step} in {self.folder} was not completed: {cause} ({free:,}"
            f" bytes were free on that disk). {self._kept()}"
        )

    def _kept(self) -> str:
        """What is left when a checkpoint is not."""
        try:
            whole = newest_committed(self.folder)
        except OSError as error:
            return f"Which others there are cannot be read ({error})."
        return (
            f"The newest whole one is {whole}: the same command goes on from there." if whole else "There is no other."
        )


def _in_a_line(error: BaseException) -> str:
    return ": ".join([type(error).__name__, *str(error).strip().splitlines()[:1]])
