"""What `teacher_mode` stands for: where the teacher's weights are, what moves them, what a checkpoint keeps of them.

Every kind starts from the model in memory, never from a name on the hub: what was handed in is what is taught. A full
model has its teacher beside it; with adapters the teacher shares the base and costs an adapter.
"""

from __future__ import annotations

import copy
import logging
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from accelerate import Accelerator, DistributedType
from torch import Tensor, nn
from transformers import PreTrainedModel

from sdpo_trainer.config import SDPOConfig
from sdpo_trainer.forward import add_backbone_exit
from sdpo_trainer.sharded import copy_into, is_sharded, load_whole, prepare, whole_weights
from sdpo_trainer.teacher import (
    LORA_EMA_TEACHER_ADAPTER,
    STUDENT_ADAPTER,
    EMATeacherCallback,
    LoraEMATeacherCallback,
    active_adapter,
    collect_lora_adapter_pairs,
    init_lora_ema_teacher,
)
from verl.self_distillation.teacher import ema_update_

logger = logging.getLogger(__name__)
Weights = dict[str, Tensor]


class Teacher(ABC):
    """A teacher: how it is run, moved, saved and restored."""

    ref_model: nn.Module
    """The model that is run; the student's own where the two differ in an adapter only."""
    callback: EMATeacherCallback | None = None
    """What moves it; None when it stands still."""

    @contextmanager
    def running(self, student: nn.Module) -> Iterator[nn.Module]:
        """The model to call; `student` is the student as the trainer calls it, with its wrappers."""
        yield student

    @abstractmethod
    def student_weights(self) -> Weights:
        """What is trained: a checkpoint's teacher belongs to these. Empty where they are not whole anywhere."""

    @abstractmethod
    def weights(self) -> Weights:
        """What a checkpoint keeps."""

    @abstractmethod
    def load(self, weights: Mapping[str, Tensor]) -> None:
        """Take what `weights` returned; ValueError when it is another model's."""

    @abstractmethod
    def restart(self) -> None:
        """Begin again as a copy of the student as it is now."""


class SecondModel(Teacher):
    """A second copy of the whole model."""

    def __init__(self, config: SDPOConfig, student: PreTrainedModel, period: int, accelerator: Accelerator) -> None:
        rate = {"ema": config.teacher_update_rate, "copy": 1.0}.get(config.teacher_mode)
        teacher: Any = _copy_of(student)
        self.dtype = student.dtype
        if rate is not None and rate < 1.0:  # an average in less loses its small steps
            teacher.to(torch.promote_types(student.dtype, torch.float32))
        add_backbone_exit(teacher)
        self.student, self.accelerator = student, accelerator
        self.ref_model = prepare(teacher, accelerator)
        if rate is not None:
            self.callback = EMATeacherCallback(self.ref_model, student, rate, period)

    @contextmanager
    def running(self, student: nn.Module) -> Iterator[nn.Module]:
        device = next(self.ref_model.parameters()).device.type
        with torch.autocast(device, self.dtype, enabled=self.dtype in (torch.bfloat16, torch.float16)):
            yield self.ref_model

    def student_weights(self) -> Weights:
        return {} if is_sharded(self.accelerator) else whole_weights(self.student, self.accelerator)

    def weights(self) -> Weights:
        return whole_weights(self.ref_model, self.accelerator)

    def load(self, weights: Mapping[str, Tensor]) -> None:
        load_whole(self.ref_model, weights, self.accelerator)

    def restart(self) -> None:
        load_whole(self.ref_model, whole_weights(self.student, self.accelerator), self.accelerator)


class _OnTheSameBase(Teacher):
    """A teacher that differs from the student, a PEFT model, in adapters only."""

    def __init__(self, model: nn.Module) -> None:
        self.ref_model = model

    def student_weights(self) -> Weights:
        return {name: p for name, p in self.ref_model.named_parameters() if STUDENT_ADAPTER in name.split(".")}


class SecondAdapter(_OnTheSameBase):
    """A second adapter: follows the student's (`lora_ema`, `copy`), or stands still where that did not start at 0."""

    def __init__(self, model: nn.Module, rate: float | None, period: int) -> None:
        super().__init__(model)
        init_lora_ema_teacher(model)
        if rate is not None:
            self.callback = LoraEMATeacherCallback(model, rate, period)

    @contextmanager
    def running(self, student: nn.Module) -> Iterator[nn.Module]:
        with active_adapter(self.ref_model, LORA_EMA_TEACHER_ADAPTER):
            yield student

    def weights(self) -> Weights:
        adapter = LORA_EMA_TEACHER_ADAPTER
        return {name: p.data for name, p in self.ref_model.named_parameters() if adapter in name.split(".")}

    def load(self, weights: Mapping[str, Tensor]) -> None:
        copy_into(self.weights(), weights)

    def restart(self) -> None:
        for target, source in collect_lora_adapter_pairs(self.ref_model):
            target.data.copy_(source.detach())


class BaseAlone(_OnTheSameBase):
    """The base without the student's adapter, which started at 0: the model as it was handed in, for free."""

    @contextmanager
    def running(self, student: nn.Module) -> Iterator[nn.Module]:
        with active_adapter(self.ref_model, None):
            yield student

    def weights(self) -> Weights:
        return {}

    def load(self, weights: Mapping[str, Tensor]) -> None:
        copy_into({}, weights)

    def restart(self) -> None:
        """Nothing to do: training has not moved the base."""


class AveragedDelta(_OnTheSameBase):
    """The exact average of a LoRA student: of its products scale * B A, a full matrix for each module that has one."""

    def __init__(self, model: nn.Module, rate: float, period: int) -> None:
        super().__init__(model)
        others = [name for name in self.student_weights() if ".lora_A." not in name and ".lora_B." not in name]
        if others:
            raise ValueError(
                f"lora_ema_exact=True averages products of A and B, and the adapter also trains {others[0]}"
                f"{f' and {len(others) - 1} more' if len(others) > 1 else ''}; set it False"
            )
        self.modules = _lora_modules(model)
        self.deltas = self._student_deltas()
        self.callback = _DeltaCallback(self, rate, period)

    def _student_deltas(self) -> Weights:
        deltas = {name: module.get_delta_weight(STUDENT_ADAPTER).detach() for name, module in self.modules.items()}
        return {name: delta.to(torch.promote_types(delta.dtype, torch.float32)) for name, delta in deltas.items()}

    def follow(self, rate: float) -> None:
        """deltas <- (1 - rate) deltas + rate * the student's."""
        ema_update_(self.deltas.items(), self._student_deltas().items(), rate)

    @contextmanager
    def running(self, student: nn.Module) -> Iterator[nn.Module]:
        base = {name: module.get_base_layer().weight for name, module in self.modules.items()}
        before = {name: weight.data for name, weight in base.items()}
        try:
            for name, weight in base.items():  # another tensor: the base's own is never written to
                weight.data = (before[name] + self.deltas[name]).to(weight.dtype)
            with active_adapter(self.ref_model, None):
                yield student
        finally:
            for name, weight in base.items():
                weight.data = before[name]

    def weights(self) -> Weights:
        return self.deltas

    def load(self, weights: Mapping[str, Tensor]) -> None:
        copy_into(self.deltas, weights)

    def restart(self) -> None:
        self.deltas = self._student_deltas()


class _DeltaCallback(EMATeacherCallback):
    def __init__(self, teacher: AveragedDelta, rate: float, period: int) -> None:
        super().__init__(teacher.ref_model, teacher.ref_model, rate, period)
        self.teacher = teacher

    def _update(self) -> None:
        self.teacher.follow(self.update_rate)


def make_teacher(config: SDPOConfig, model: Any, period: int, accelerator: Accelerator) -> Teacher:
    """The teacher of `config.teacher_mode`, as a copy of the student as it is.

    Args:
        config: `teacher_mode`, `teacher_update_rate`, `lora_ema_exact`.
        model: the student: a transformers model, or one wrapped by peft.
        period: optimizer steps between two of the teacher's updates.
        accelerator: the trainer's.

    Raises:
        ValueError: the mode does not fit the model.
    """
    mode = config.teacher_mode
    if getattr(model, "peft_config", None) is None:
        if mode == "lora_ema":
            raise ValueError(
                f"teacher_mode=lora_ema needs a PEFT model, and this is {type(model).__name__}; pass"
                " peft_config=LoraConfig(...) to the trainer, or take teacher_mode=ema"
            )
        if getattr(model, "is_quantized", False):
            raise ValueError(
                "a quantised model is trained by adapters; pass peft_config=LoraConfig(...) to the trainer"
            )
        return SecondModel(config, model, period, accelerator)
    if STUDENT_ADAPTER not in model.peft_config:
        raise ValueError(
            f"the adapter that is trained has to be called {STUDENT_ADAPTER!r}, and this model has"
            f" {', '.join(model.peft_config)}; load it with adapter_name={STUDENT_ADAPTER!r}"
        )
    if accelerator.distributed_type == DistributedType.FSDP or any(hasattr(p, "ds_id") for p in model.parameters()):
        raise ValueError(
            "adapters and their teacher have to be whole on every rank; train them with DDP or DeepSpeed ZeRO 1 or 2,"
            " or the whole model with FSDP or ZeRO-3"
        )
    if mode == "ema":
        logger.info("teacher_mode=ema with a PEFT model: the teacher is a second adapter (lora_ema)")
    if mode in ("frozen", "trust_region"):
        return BaseAlone(model) if _starts_at_zero(model) else SecondAdapter(model, None, period)
    if mode == "copy":
        return SecondAdapter(model, 1.0, period)
    if config.lora_ema_exact:
        return AveragedDelta(model, config.teacher_update_rate, period)
    return SecondAdapter(model, config.teacher_update_rate, period)


def _copy_of(student: PreTrainedModel) -> PreTrainedModel:
    """A copy for evaluation. Without the forward that was put on the student, which would go on calling the student."""
    patched = student.__dict__.pop("forward", None)
    try:
        teacher = copy.deepcopy(student)
    finally:
        if patched is not None:
            student.forward = patched
    return teacher.eval().requires_grad_(False)


def _lora_modules(model: nn.Module) -> dict[str, Any]:
    found: dict[str, Any] = {
        name: module for name, module in model.named_modules() if hasattr(module, "get_delta_weight")
    }
    for name, module in found.items():
        if not module.get_base_layer().weight.is_floating_point():
            raise ValueError(
                f"lora_ema_exact=True: {name} is quantised, and a full delta cannot be added to it; set it False"
            )
    return {name: module for name, module in found.items() if STUDENT_ADAPTER in module.lora_A}


def _starts_at_zero(model: nn.Module) -> bool:
    """Whether the student's adapter changes nothing yet: it is made of A and B alone, and every B is 0."""
    own = {name: p for name, p in model.named_parameters() if STUDENT_ADAPTER in name.split(".")}
    is_plain = all(".lora_A." in name or ".lora_B." in name for name in own)
    return is_plain and not any(p.any() for name, p in own.items() if ".lora_B." in name)
