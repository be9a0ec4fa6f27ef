"""What a rank's training state consists of, as torch distributed checkpoints (DCP) know it, and how it is taken back.

DCP stores every tensor under its name with the place of each shard, so a run may go on with another number of ranks.
Loading fills the live tensors in place. With LoRA only what is trained is saved: the base is `model.path`. Settings of
the optimizer are not saved: they are the configuration's.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import torch
from torch.distributed.tensor import DTensor

from verl.checkpoint import CheckpointError
from verl.checkpoint.dcp import check_model, load_state, saved_shapes
from verl.workers.ref import RefWorker
from verl.workers.update import Learner

logger = logging.getLogger(__name__)


def training_state(learner: Learner, ref: RefWorker | None) -> dict[str, dict[str, Any]]:
    """Live tensors and numbers by the folder they are saved in: `policy` and, if there is one, `teacher`."""
    states = {"policy": _actor_state(learner) | _random_state(learner)}
    return states if ref is None else states | {"teacher": ref.state_dict()}


def num_bytes(state: dict[str, Any]) -> int:
    """Bytes of this rank's tensors in a nested state; shards that others hold too count in part."""
    return sum(_local_bytes(value) for value in _leaves(state))


def load_training_state(path: str, learner: Learner, ref: RefWorker | None, model_path: str | None) -> None:
    """Load what was saved of `training_state`; the number of ranks may differ. A collective.

    Args:
        path: the folder of `policy` and `teacher`.
        learner: is filled.
        ref: is filled.
        model_path: of this run, for messages.

    Raises:
        CheckpointError: the checkpoint is of another model, or has no teacher and this run needs one; or its files
            cannot be read.
    """
    folder, state = Path(path, "policy"), _actor_state(learner)
    saved, random_state = saved_shapes(folder), _random_state(learner)
    check_model(folder, saved, "model", state["model"], model_path)
    if random_state.keys() <= saved.keys():
        state |= random_state
    else:
        logger.warning("%s has no random state for rank %d; it starts from the seed.", folder, learner.place.rank)
    teacher = None if ref is None else _teacher_to_load(Path(path, "teacher"), ref, model_path)
    load_state(state, folder)
    learner.num_steps = int(state["num_steps"])
    for name, value in random_state.items():
        if name in state:
            torch.set_rng_state(value) if name.endswith("cpu") else torch.cuda.set_rng_state(value)
    if ref is not None and teacher is not None:
        load_state(teacher, Path(path, "teacher"))
        ref.load_state_dict(teacher)


def _teacher_to_load(folder: Path, ref: RefWorker, model_path: str | None) -> dict[str, Any]:
    if not folder.is_dir():
        raise CheckpointError(
            f"{folder.parent} holds no teacher, but this run needs one: it was saved by a run without a teacher."
        )
    state = ref.state_dict()
    check_model(folder, saved_shapes(folder), "weights", state["weights"], model_path)
    return state


def _actor_state(learner: Learner) -> dict[str, Any]:
    trained = {name: value for name, value in learner.model.named_parameters() if value.requires_grad}
    moments = {name: learner.optimizer.state[value] for name, value in trained.items()}
    return {
        "model": {name: value.detach() for name, value in trained.items()},
        "optimizer": {"state": moments},
        "num_steps": learner.num_steps,
    }


def _random_state(learner: Learner) -> dict[str, torch.Tensor]:
    """Of this rank's generators: under the rank's own name, since the others' differ."""
    name = f"random_state_{learner.place.rank}"
    state = {f"{name}_cpu": torch.get_rng_state()}
    if learner.place.device.type == "cuda":
        state[f"{name}_cuda"] = torch.cuda.get_rng_state()
    return state


def _leaves(value: Any) -> list[Any]:
    return [leaf for inner in value.values() for leaf in _leaves(inner)] if isinstance(value, dict) else [value]


def _local_bytes(value: Any) -> int:
    if not isinstance(value, torch.Tensor):
        return 0
    if not isinstance(value, DTensor):
        return value.nbytes
    return value.to_local().nbytes // (value.device_mesh.size(0) if value.device_mesh.ndim == 2 else 1)
