"""How the teacher follows the student in one process: a second model, or a second LoRA adapter on the same base.

The rule itself, T <- (1 - rate) T + rate S, is `verl.self_distillation.teacher`; here is what it is applied to.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import chain

import torch
from torch import Tensor, nn

from verl.self_distillation.teacher import ema_update_

LORA_EMA_TEACHER_ADAPTER = "sdpo_teacher"
"""Name of the teacher's adapter."""
STUDENT_ADAPTER = "default"

_WRAPPERS = ("_fsdp_wrapped_module.", "_orig_mod.", "_checkpoint_wrapped_module.")


def ema_update(teacher: nn.Module, student: nn.Module, rate: float) -> None:
    """teacher <- (1 - rate) teacher + rate student, in place and without a graph.

    Floating-point parameters and buffers are matched by name; integer ones (quantised weights) are left alone. Shards
    (FSDP) are averaged where they lie; under DeepSpeed ZeRO-3 parameters are gathered for it.

    Raises:
        ValueError: the rate is not in [0, 1]; the two are not the same model; a teacher tensor is less precise than
            float32, in which an average loses its small steps.
    """
    with gathered_to_write(chain(teacher.parameters(), student.parameters())) as is_writer:
        if is_writer:
            ema_update_(_floats(teacher), _floats(student), rate)


@contextmanager
def gathered_to_write(parameters: Iterable[nn.Parameter]) -> Iterator[bool]:
    """Whether this process writes to them; under DeepSpeed ZeRO-3 they are whole inside, and one writes for all."""
    partitioned = [parameter for parameter in parameters if hasattr(parameter, "ds_id")]
    if not partitioned:
        yield True
        return
    import deepspeed  # pyright: ignore[reportMissingImports]

    with deepspeed.zero.GatheredParameters(partitioned, modifier_rank=0):
        yield deepspeed.comm.get_rank() == 0


def _floats(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    for name, tensor in chain(module.named_parameters(), module.named_buffers()):
        if tensor.is_floating_point():
            for wrapper in _WRAPPERS:
                name = name.replace(wrapper, "")
            yield name.removeprefix("module."), tensor.data  # DDP's and DeepSpeed's


class EMATeacherCallback:
    """Moves a second model towards the student every `num_iterations` optimizer steps.

    Args:
        teacher_model: moved; float32.
        student_model: the same architecture.
        update_rate: 0 stands still, 1 copies.
        num_iterations: period, in optimizer steps.
    """

    def __init__(
        self, teacher_model: nn.Module, student_model: nn.Module, update_rate: float = 0.05, num_iterations: int = 1
    ) -> None:
        self.teacher_model, self.student_model = teacher_model, student_model
        self.update_rate, self.num_iterations = update_rate, num_iterations
        self.num_updates = 0

    def should_update(self, global_step: int) -> bool:
        """Whether the teacher moves after optimizer step `global_step` (1, 2, ...)."""
        return global_step % self.num_iterations == 0

    def step(self, global_step: int) -> bool:
        """Move the teacher if it is time; whether it was."""
        if not self.should_update(global_step):
            return False
        self._update()
        self.num_updates += 1
        return True

    def _update(self) -> None:
        ema_update(self.teacher_model, self.student_model, self.update_rate)


def collect_lora_adapter_pairs(
    model: nn.Module, student_adapter: str = STUDENT_ADAPTER, teacher_adapter: str = LORA_EMA_TEACHER_ADAPTER
) -> list[tuple[nn.Parameter, nn.Parameter]]:
    """(teacher, student) parameters of two adapters: A and B of every module, and whatever else an adapter holds.

    Raises:
        ValueError: an adapter is not found, or the two do not hold the same parameters.
    """
    return list(_adapter_pairs(model, student_adapter, teacher_adapter).values())


def _adapter_pairs(
    model: nn.Module, student_adapter: str, teacher_adapter: str
) -> dict[str, tuple[nn.Parameter, nn.Parameter]]:
    """The same by name; the place of the adapter's own name is `*`."""
    students, teachers = (_adapter_parameters(model, adapter) for adapter in (student_adapter, teacher_adapter))
    for adapter, found in ((student_adapter, students), (teacher_adapter, teachers)):
        if not found:
            raise ValueError(f"adapter {adapter!r} not found in {type(model).__name__}; {_adapters_of(model)}")
    if students.keys() != teachers.keys():
        alone = sorted(students.keys() ^ teachers.keys())[:3]
        raise ValueError(f"adapters {student_adapter!r} and {teacher_adapter!r} differ: only one of them has {alone}")
    return {name: (teachers[name], students[name]) for name in students}


def _adapter_parameters(model: nn.Module, adapter: str) -> dict[str, nn.Parameter]:
    found = {}
    for name, parameter in model.named_parameters():
        parts = name.split(".")
        if adapter in parts:
            found[".".join("*" if part == adapter else part for part in parts)] = parameter
    return found


def _adapters_of(model: nn.Module) -> str:
    names = ", ".join(getattr(model, "peft_config", {}))
    return f"it has {names}" if names else "it has no adapters (a PEFT model is needed)"


def init_lora_ema_teacher(
    model: nn.Module, student_adapter: str = STUDENT_ADAPTER, teacher_adapter: str = LORA_EMA_TEACHER_ADAPTER
) -> None:
    """Add the teacher's adapter as a copy of the student's, in float32 and never trained; the student's stays active.

    Raises:
        ValueError: `model` is not a PEFT model, has no such student adapter, or has a teacher adapter already.
    """
    configs = getattr(model, "peft_config", None)
    if not configs or not hasattr(model, "add_adapter"):
        raise ValueError(f"{type(model).__name__} is not a PEFT model; wrap it with peft.get_peft_model first")
    if student_adapter not in configs:
        raise ValueError(f"adapter {student_adapter!r} not found in {type(model).__name__}; {_adapters_of(model)}")
    if teacher_adapter in configs:
        raise ValueError(f"adapter {teacher_adapter!r} is there already; the teacher starts as a copy of the student")
    flags = _training_flags(model)
    config = copy.deepcopy(configs[student_adapter])
    if hasattr(config, "init_lora_weights"):
        config.init_lora_weights = True  # "pissa", "olora", "loftq" take the adapter out of the base, once more
    model.add_adapter(teacher_adapter, config)  # pyright: ignore[reportCallIssue]
    for target, source in collect_lora_adapter_pairs(model, student_adapter, teacher_adapter):
        target.requires_grad_(False)
        target.data = source.detach().to(torch.promote_types(source.dtype, torch.float32), copy=True)
    _restore(flags)


def ema_update_lora_adapters(
    model: nn.Module,
    rate: float,
    student_adapter: str = STUDENT_ADAPTER,
    teacher_adapter: str = LORA_EMA_TEACHER_ADAPTER,
) -> None:
    """Average the two adapters, parameter by parameter; the base is not touched.

    The average of A and of B is not the average of the products B A: between two adapters that point in different
    directions it is smaller. `lora_ema_exact` averages the products.
    """
    pairs = _adapter_pairs(model, student_adapter, teacher_adapter)
    ema_update_(
        [(name, target.data) for name, (target, _) in pairs.items()],
        [(name, source.data) for name, (_, source) in pairs.items()],
        rate,
    )


class LoraEMATeacherCallback(EMATeacherCallback):
    """The same for a teacher that is an adapter of the student's own model."""

    def __init__(
        self,
        model: nn.Module,
        update_rate: float = 0.05,
        num_iterations: int = 1,
        student_adapter: str = STUDENT_ADAPTER,
        teacher_adapter: str = LORA_EMA_TEACHER_ADAPTER,
    ) -> None:
        super().__init__(model, model, update_rate, num_iterations)
        self.student_adapter, self.teacher_adapter = student_adapter, teacher_adapter

    def _update(self) -> None:
        ema_update_lora_adapters(self.student_model, self.update_rate, self.student_adapter, self.teacher_adapter)


@contextmanager
def active_adapter(model: nn.Module, adapter: str | None) -> Iterator[None]:
    """Another adapter inside the block, or none at all; whatever happens, everything is as before afterwards.

    peft makes the adapter that is switched to trainable; what takes a gradient is restored with the rest.
    """
    flags = _training_flags(model)
    before = model.active_adapter
    try:
        if adapter is None:
            with model.disable_adapter():  # pyright: ignore[reportCallIssue]
                yield
        else:
            model.set_adapter(adapter)  # pyright: ignore[reportCallIssue]
            yield
    finally:
        model.set_adapter(before)  # pyright: ignore[reportCallIssue]
        _restore(flags)


def _training_flags(model: nn.Module) -> list[tuple[nn.Parameter, bool]]:
    return [(parameter, parameter.requires_grad) for parameter in model.parameters()]


def _restore(flags: Iterable[tuple[nn.Parameter, bool]]) -> None:
    for parameter, was_trained in flags:
        parameter.requires_grad_(was_trained)
