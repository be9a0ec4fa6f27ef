"""Writing a recording beside a run (`trainer.record`), and training from one without engines (`trainer.replay`).

A replay repeats the run's updates: with `trainer.deterministic=true`, the same configuration and the same number of
ranks it ends with the same weights, bit for bit. It starts where its checkpoint says, like any run. What has to fit is
checked before anything starts: tokenizer, data, the steps, and how many samples a step has.
"""

from __future__ import annotations

import dataclasses
import logging
import os
import socket
from pathlib import Path

from verl.config import PPOConfig
from verl.config.checks import has_teacher
from verl.config.secrets import redact
from verl.trainer.record import (
    Identity,
    RecordingError,
    read_identity,
    read_step,
    recorded_steps,
    tokenizer_digest,
    write_identity,
    write_step,
)
from verl.trainer.run_data import RunData
from verl.trainer.sampling import Batch
from verl.trainer.schedule import OnPolicy, Schedule

logger = logging.getLogger(__name__)


def identity_of(config: PPOConfig, data: RunData) -> Identity:
    """What a recording of this run is made of."""
    digest = tokenizer_digest(data.tokenizer)
    return Identity(digest, data.vocab_size, data.identity.fingerprint, str(config.actor_rollout_ref.model.path))


def dump_batch(folder: Path, number: int, batch: Batch, config: PPOConfig, data: RunData) -> None:
    """A recording of one step alone, which can be replayed from any checkpoint before it."""
    write_identity(folder, identity_of(config, data), redact(dataclasses.asdict(config)), is_dump=True)
    write_step(folder, number, batch)


class Recorder:
    """Writes the steps of a run as they are drawn."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @classmethod
    def begin(cls, config: PPOConfig, data: RunData, step: int) -> Recorder:
        """Make `trainer.record` ready for the steps after `step`; later ones that are there already are dropped.

        Raises:
            RecordingError: the folder holds something that this run does not go on from.
        """
        folder = Path(str(config.trainer.record)).expanduser().absolute()
        identity, process = identity_of(config, data), f"{socket.gethostname()}:{os.getpid()}"
        steps = recorded_steps(folder)
        if steps:
            found = read_identity(folder)
            if step == 0 and found.get("process") != process:
                raise RecordingError(
                    f"trainer.record={folder}: holds steps {min(steps)} to {max(steps)} of a run, and this one starts"
                    " anew. Name an empty folder, or delete it."
                )
            check_identity(f"trainer.record={folder}", found, identity)
            if max(steps) < step:
                raise RecordingError(
                    f"trainer.record={folder}: holds steps {min(steps)} to {max(steps)}, and this run goes on from step"
                    f" {step}: those between would be missing. Name an empty folder."
                )
        elif folder.is_dir() and any(folder.iterdir()):
            raise RecordingError(f"trainer.record={folder}: is not empty, and no recording. Name an empty folder.")
        for number, path in steps.items():
            if number > step:
                path.unlink()
        write_identity(folder, identity, redact(dataclasses.asdict(config)), process=process)
        return cls(folder)

    def write(self, number: int, batch: Batch) -> None:
        """Write one step."""
        write_step(self.folder, number, batch)


class Replay:
    """Gives the loop what a recording holds.

    Raises:
        RecordingError: the recording does not fit the run, see `check`.
    """

    def __init__(self, config: PPOConfig, data: RunData) -> None:
        self.config = config
        self.has_teacher = has_teacher(config)
        self.folder = Path(str(config.trainer.replay)).expanduser().absolute()
        self.name = f"trainer.replay={self.folder}"
        found = read_identity(self.folder)
        check_identity(self.name, found, identity_of(config, data))
        self.is_dump = bool(found.get("is_dump"))
        self.steps = recorded_steps(self.folder)
        if not self.steps:
            raise RecordingError(f"{self.name}: holds no step.")
        if missing := sorted(set(range(min(self.steps), max(self.steps))) - set(self.steps)):
            raise RecordingError(
                f"{self.name}: step {', '.join(map(str, missing[:5]))} is missing between {min(self.steps)} and"
                f" {max(self.steps)}. A replay needs every step of the recording."
            )
        self.data = data
        logger.info("Replaying %s: no engines, no reward workers, and so no validation.", self.folder)

    @property
    def last_step(self) -> int:
        return min(max(self.steps), self.data.total_steps)

    def start_from(self, step: int) -> int:
        """The step after which the replay starts, of a run that stands at `step`.

        Only a dump of a single step may lie further ahead. Raises RecordingError when the numbers do not fit.
        """
        first = min(self.steps)
        if step >= self.last_step:
            raise RecordingError(
                f"{self.name}: has steps {first} to {max(self.steps)}, and this run stands at step {step} of"
                f" {self.data.total_steps}: nothing is left to train on. Take another trainer.default_local_dir, an"
                " earlier checkpoint (trainer.resume_mode=resume_path), or raise trainer.total_training_steps."
            )
        if first <= step + 1:
            return step
        if not self.is_dump:
            raise RecordingError(
                f"{self.name}: begins with step {first}, and this run stands at step {step}: resume from the checkpoint"
                f" of step {first - 1} (trainer.resume_mode=resume_path trainer.resume_from_path=.../global_step_"
                f"{first - 1})."
            )
        logger.warning("%s is of step %d; the weights here are those of step %d, older ones.", self.name, first, step)
        for _ in range(step + 1, first):
            self.data.advance()
        return first - 1

    def publish(self, version: int) -> dict[str, float]:
        """Nothing: there are no engines."""
        return {}

    def make_schedule(self) -> Schedule[Batch]:
        """Read when it is asked for."""
        return OnPolicy(self.read)

    def read(self, number: int) -> Batch:
        """The batch of step `number`. Raises RecordingError when it does not fit the configuration."""
        batch = read_step(self.steps[number], number)
        prompts, n = self.config.data.train_batch_size, self.config.actor_rollout_ref.rollout.n
        if len(batch.samples) != prompts * n:
            raise RecordingError(
                f"{self.steps[number]} holds {len(batch.samples)} samples, this run makes {prompts * n} a step:"
                f" data.train_batch_size={prompts} x actor_rollout_ref.rollout.n={n}. Use the numbers of the recording,"
                f" which are in {self.folder}/recording.json."
            )
        if not self.has_teacher:
            return Batch(batch.samples, None)
        if batch.reprompts is None:
            raise RecordingError(f"{self.steps[number]} was recorded without a teacher, and this algorithm needs one.")
        return batch


def check_identity(name: str, found: dict[str, object], wanted: Identity) -> None:
    """Raises RecordingError when a recording was made with another tokenizer or of other data."""
    if found["tokenizer"] != wanted.tokenizer:
        raise RecordingError(
            f"{name}: was recorded with another tokenizer ({found['vocab_size']} tokens, model {found['model']}) than"
            f" this run has ({wanted.vocab_size} tokens, model {wanted.model}): its token ids mean something else here."
        )
    if found["data"] != wanted.data:
        raise RecordingError(
            f"{name}: was recorded on other data than data.train_files (or their filters) name now. Use the same data."
        )
