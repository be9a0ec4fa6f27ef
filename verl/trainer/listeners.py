"""What happens around the steps: dumps, validation, trackers, checkpoints. None of it is a line of the loop.

Listeners are called in order, each step is passed from one to the next, and a listener may add metrics to it. The
tracker comes before the checkpoint: if the run dies between the two, the resumed run drops the lines after its
checkpoint and writes them again.

A listener may end the run early, in order (`Step.stop`): those after it still see the step, as the last one.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from verl.protocol import Row
from verl.self_distillation.reprompt import Reprompt
from verl.tracking import Tracking, dump_samples
from verl.trainer.batch_metrics import Timer
from verl.trainer.checkpointing import RunCheckpoints
from verl.trainer.roles import Roles
from verl.trainer.run_data import RunData
from verl.trainer.validation import validate
from verl.types import Sample

if TYPE_CHECKING:
    from verl.trainer.rl_trainer import RLTrainer

logger = logging.getLogger(__name__)


@dataclass
class Step:
    """A finished step. Number 0 is the state before the first one."""

    number: int
    metrics: dict[str, float] = field(default_factory=dict)
    timer: Timer = field(default_factory=Timer)
    samples: list[Sample] = field(default_factory=list)
    rows: list[Row] = field(default_factory=list)
    reprompts: list[Reprompt] | None = None
    is_last: bool = False
    """No step comes after this one."""
    stop_reason: str = ""
    """Why no step comes after this one, where a listener wished so."""

    def stop(self, reason: str) -> None:
        """End the run with this step. Its status is `finished`, and `status.json` says why it ended here.

        Listeners that come later treat the step as the last one: it is validated, logged and saved where the last step
        would be. Called in `before_first`, no step is taken. Of several reasons the first one counts.
        """
        self.is_last = True
        self.stop_reason = self.stop_reason or reason


class Listener(Protocol):
    """Something that a run does beside learning."""

    def before_first(self, step: Step) -> None:
        """Called once, when the engines have their first weights."""
        ...

    def after(self, step: Step) -> None:
        """Called after every step."""
        ...


class BaseListener:
    """A listener that does nothing: override what you need."""

    def before_first(self, step: Step) -> None:
        """Nothing."""

    def after(self, step: Step) -> None:
        """Nothing."""


class RolloutDump(BaseListener):
    """Writes every step's rollouts as JSON Lines, with what the teacher was shown for each."""

    def __init__(self, folder: str, data: RunData) -> None:
        self.folder = folder
        self.data = data

    def after(self, step: Step) -> None:
        prompts = [row.teacher_prompt_ids for row in step.rows]  # rows are in the order of their samples
        dump_samples(self.folder, step.number, step.samples, self.data.tokenizer.decode, prompts)


class Validation(BaseListener):
    """Validates before the first step, every `test_freq` steps and after the last one."""

    def __init__(self, trainer: RLTrainer, roles: Roles) -> None:
        self.trainer = trainer
        self.roles = roles
        self.settings = trainer.config.trainer

    def before_first(self, step: Step) -> None:
        if self.settings.val_only or (self.settings.val_before_train and step.number == 0):
            self._validate(step)

    def after(self, step: Step) -> None:
        is_due = self.settings.test_freq > 0 and step.number % self.settings.test_freq == 0
        if is_due or (step.is_last and self.settings.test_freq >= 0):
            self._validate(step)

    def _validate(self, step: Step) -> None:
        trainer, settings = self.trainer, self.settings
        if step.number == 0:  # later ones show up in the line of their step
            logger.info("Validating before the first step: %d prompts", len(trainer.data.validation))
        with step.timer("testing"):
            metrics, samples = validate(trainer.config, trainer.data, self.roles, trainer.algorithm.needs_teacher)
        step.metrics |= metrics
        if settings.validation_data_dir:
            dump_samples(settings.validation_data_dir, step.number, samples, trainer.data.tokenizer.decode)
        for sample in samples[: settings.log_val_generations]:
            prompt = trainer.data.tokenizer.decode(sample.rollout.prompt_ids)
            print(f"[validation, step {step.number}] score {sample.reward.score:g}\n{prompt}{sample.response_text}\n")


class CheckpointTime(BaseListener):
    """Adds how long saving held up the run since the last line: a save comes after the line of its own step."""

    def __init__(self, checkpoints: RunCheckpoints) -> None:
        self.checkpoints = checkpoints

    def after(self, step: Step) -> None:
        if seconds := self.checkpoints.take_seconds():
            step.timer.add("save_checkpoint", seconds)


class Track(BaseListener):
    """Passes a step's metrics to the trackers."""

    def __init__(self, tracking: Tracking) -> None:
        self.tracking = tracking

    def before_first(self, step: Step) -> None:
        if step.number == 0 or any(name.startswith("val-core/") for name in step.metrics):
            self.after(step)

    def after(self, step: Step) -> None:
        self.tracking.log(step.metrics | step.timer.metrics(), step.number)


class SaveCheckpoints(BaseListener):
    """Saves the run's checkpoints."""

    def __init__(self, checkpoints: RunCheckpoints, total_steps: int) -> None:
        self.checkpoints = checkpoints
        self.total_steps = total_steps

    def after(self, step: Step) -> None:
        self.checkpoints.save_if_due(step.number, step.number if step.is_last else self.total_steps)
