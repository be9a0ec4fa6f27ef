"""The teacher's part of a checkpoint folder, `sdpo_teacher/`: weights as safetensors, and what they belong to.

Written before the rest of the checkpoint, whose `trainer_state.json` comes last. A resumed run goes on with exactly
this teacher: one that is missing, of another kind or of another student is an error, never a fresh one in silence.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
import xxhash
from safetensors.torch import load_file, save_file
from torch import Tensor

FOLDER = "sdpo_teacher"
WEIGHTS, STATE = "teacher.safetensors", "state.json"


@dataclass(frozen=True)
class TeacherState:
    """`state.json`."""

    teacher_mode: str
    lora_ema_exact: bool
    teacher_update_rate: float
    num_updates: int
    """How often the teacher has moved."""
    num_consumed_batches: int
    """Rollout batches that were learnt from."""
    student: str
    """`fingerprint` of the student's weights in the same checkpoint; empty when they were not whole anywhere."""


def fingerprint(weights: Mapping[str, Tensor]) -> str:
    """A hash of names, types and bytes of tensors, in the order of their names; empty for none."""
    digest = xxhash.xxh3_128()
    for name, tensor in sorted(weights.items()):
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)};".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest() if weights else ""


def save_teacher(checkpoint: str | os.PathLike[str], weights: Mapping[str, Tensor], state: TeacherState) -> None:
    """Write the teacher into a checkpoint folder, which is made if needed; its state last."""
    folder = Path(checkpoint) / FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    if weights:
        save_file({name: tensor.detach().contiguous() for name, tensor in weights.items()}, folder / WEIGHTS)
    (folder / STATE).write_text(json.dumps(asdict(state), indent=2) + "\n", encoding="utf-8")


def load_teacher(checkpoint: str | os.PathLike[str]) -> tuple[dict[str, Tensor], TeacherState]:
    """Read it again, on the CPU. Raises ValueError when it is not there or not readable."""
    folder = Path(checkpoint) / FOLDER
    try:
        state = TeacherState(**json.loads((folder / STATE).read_text(encoding="utf-8")))
        weights = load_file(folder / WEIGHTS) if (folder / WEIGHTS).exists() else {}
    except FileNotFoundError:
        raise ValueError(f"{folder} does not hold a teacher ({STATE} is missing)") from None
    except Exception as error:  # json's, safetensors' and ours: all mean that the folder is damaged
        raise ValueError(f"{folder} cannot be read: {type(error).__name__}: {error}") from error
    return weights, state


def mismatch(found: TeacherState, expected: TeacherState) -> str | None:
    """Why a saved teacher is not the one of this run; None when it is."""
    for name in ("teacher_mode", "lora_ema_exact"):
        if getattr(found, name) != getattr(expected, name):
            return f"its {name} is {getattr(found, name)}, and this run has {getattr(expected, name)}"
    if found.student != expected.student:
        return "it belongs to other student weights than those of this checkpoint"
    return None
