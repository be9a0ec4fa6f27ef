"""How the teacher's weights follow the student's: rules on (name, tensor) pairs.

Pairs, not modules, so that the same rules serve whole models, the shards of one rank, and adapters alone. Averaging is
done in float32: at rate 0.05 a bfloat16 teacher would round most steps of training away. Parameters are matched by
name and shape, because zipping two lists hides a model that differs. Section 2 of the method, arXiv 2601.20802.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor

NamedTensors = Iterable[tuple[str, Tensor]]


@torch.no_grad()
def ema_update_(teacher: NamedTensors, student: NamedTensors, rate: float) -> None:
    """Move the teacher towards the student in place: teacher <- (1 - rate) teacher + rate student.

    Floating-point tensors (parameters and buffers) are averaged in the teacher's precision; other buffers, such as
    counters, are copied. Rate 0 changes nothing, rate 1 copies. Pairs may come in any order; teacher and student may
    differ in dtype and device.

    Raises:
        ValueError: names or shapes differ, or a teacher tensor to be averaged is less precise than float32. Nothing
            has been changed then.
    """
    if not 0.0 <= rate <= 1.0:
        raise ValueError(f"teacher_update_rate={rate}: must be between 0 and 1")
    pairs = _match(teacher, student)
    if rate == 0.0:
        return
    for name, target, _ in pairs:
        if rate < 1.0 and target.is_floating_point() and torch.finfo(target.dtype).bits < 32:
            raise ValueError(
                f"teacher parameter {name} is {target.dtype}: an average with rate {rate:g} loses its small steps in"
                " that precision; keep the teacher in float32."
            )
    for _, target, source in pairs:
        if rate == 1.0 or not target.is_floating_point():
            target.copy_(source)
        else:
            target.lerp_(source.to(device=target.device, dtype=target.dtype), rate)


@torch.no_grad()
def squared_distance(teacher: NamedTensors, student: NamedTensors) -> float:
    """Sum over all floating-point tensors of (teacher - student)^2, in float32.

    Over shards, add the ranks' values, then take the root: that is `distance` of the whole models.
    """
    total = 0.0
    for _, target, source in _match(teacher, student):
        if target.is_floating_point():
            gap = target.float() - source.to(device=target.device, dtype=torch.float32)
            total += gap.square().sum().item()
    return total


def distance(teacher: NamedTensors, student: NamedTensors) -> float:
    """Euclidean distance between the two sets of weights: how far the teacher trails behind."""
    return math.sqrt(squared_distance(teacher, student))


def _match(teacher: NamedTensors, student: NamedTensors) -> list[tuple[str, Tensor, Tensor]]:
    """Pair tensors by name. Raises ValueError with every name or shape that differs."""
    targets, sources = dict(teacher), dict(student)
    problems = [f"{name} is missing in the student" for name in targets if name not in sources]
    problems += [f"{name} is missing in the teacher" for name in sources if name not in targets]
    problems += [
        f"{name} has shape {list(targets[name].shape)} in the teacher and {list(sources[name].shape)} in the student"
        for name in targets
        if name in sources and targets[name].shape != sources[name].shape
    ]
    if problems:
        more = f"; and {len(problems) - 5} more" if len(problems) > 5 else ""
        raise ValueError(f"teacher and student are not the same model: {'; '.join(problems[:5])}{more}")
    return [(name, target, sources[name]) for name, target in targets.items()]
