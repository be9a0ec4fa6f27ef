"""The teacher in TRL's checkpoints: it is saved with the student, and resumed with it or not at all."""

from __future__ import annotations

import functools
import logging
import os
from typing import TYPE_CHECKING, Any

from accelerate.utils import broadcast_object_list
from torch import Tensor

from sdpo_trainer.arguments import generation_period
from sdpo_trainer.kinds import Teacher
from sdpo_trainer.teacher import LORA_EMA_TEACHER_ADAPTER, EMATeacherCallback
from sdpo_trainer.teacher_files import TeacherState, fingerprint, load_teacher, mismatch, save_teacher

_GRPOTrainer: Any = object
"""TRL's trainer stands behind this class in the order of bases; which one is known at first use only."""

if TYPE_CHECKING:
    from sdpo_trainer.config import SDPOConfig

logger = logging.getLogger(__name__)


class TeacherCheckpoints(_GRPOTrainer):
    """Saving and loading, for a GRPOTrainer with a teacher."""

    sdpo_config: SDPOConfig
    ema_callback: EMATeacherCallback | None
    """What moves the teacher; None when it stands still."""
    _teacher: Teacher
    _distils: bool
    """Whether there is a teacher."""

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        if self._distils:
            folder = os.path.join(self._get_output_dir(trial=trial), f"checkpoint-{self.state.global_step}")
            state, weights = self._teacher_state(), self._teacher.weights()
            if self.args.should_save:
                save_teacher(folder, weights, state)
        super()._save_checkpoint(model, trial)

    def _teacher_state(self) -> TeacherState:
        config, args = self.sdpo_config, self.args
        num_micro_steps = self.state.global_step * args.gradient_accumulation_steps
        return TeacherState(
            teacher_mode=config.teacher_mode,
            lora_ema_exact=config.lora_ema_exact,
            teacher_update_rate=config.teacher_update_rate,
            num_updates=self.ema_callback.num_updates if self.ema_callback else 0,
            num_consumed_batches=num_micro_steps // generation_period(args),
            student=fingerprint(self._teacher.student_weights()),
        )

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        super()._load_optimizer_and_scheduler(checkpoint)
        if checkpoint is None or not self._distils:
            return
        weights: dict[str, Tensor] = {}
        problem: str | None = None
        try:
            weights, state = load_teacher(checkpoint)
            problem = mismatch(state, self._teacher_state())
            if problem is None:
                self._teacher.load(weights)
                if self.ema_callback:
                    self.ema_callback.num_updates = state.num_updates
        except ValueError as error:
            problem = str(error)
        (problem,) = broadcast_object_list([problem])  # the main process has seen all there is
        if problem is None:
            return
        if not self.sdpo_config.allow_fresh_teacher:
            raise ValueError(
                f"the teacher of {checkpoint} cannot be taken: {problem}. Resume from another checkpoint, or begin with"
                " a teacher that is a copy of the student as it is there: SDPOConfig(allow_fresh_teacher=True)"
            )
        logger.warning(
            "The teacher of %s cannot be taken: %s. It begins as a copy of the student.", checkpoint, problem
        )
        self._teacher.restart()

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        """The student alone: the teacher's adapter is no part of the model that was asked for."""
        adapters = getattr(self.model, "peft_config", {})
        if LORA_EMA_TEACHER_ADAPTER in adapters:
            own = [name for name in adapters if name != LORA_EMA_TEACHER_ADAPTER]
            self.model.save_pretrained = functools.partial(self.model.save_pretrained, selected_adapters=own)
        try:
            super()._save(output_dir, state_dict)
        finally:
            self.model.__dict__.pop("save_pretrained", None)
