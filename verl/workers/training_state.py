"""What a rank's training state consists of, saved and loaded as torch distributed checkpoints (DCP).

DCP stores every tensor under its name with the place of each shard, so a run may go on with another number of ranks.
Loading fills the live tensors in place. With LoRA only what is trained is saved: the base is `model.path`.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import torch
from torch.distributed.checkpoint.filesystem import FileSystemReader
from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict, set_optimizer_state_dict
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save

from verl.workers.ref import RefWorker
from verl.workers.update import Learner

logger = logging.getLogger(__name__)


def save_training_state(path: str, learner: Learner, ref: RefWorker | None) -> None:
    """Write `<path>/policy` and, if there is a teacher or reference, `<path>/teacher`. A collective."""
    save(_actor_state(learner) | _random_state(learner), checkpoint_id=str(Path(path, "policy")))
    if ref is not None:
        save(ref.state_dict(), checkpoint_id=str(Path(path, "teacher")))


def load_training_state(path: str, learner: Learner, ref: RefWorker | None) -> None:
    """Load what `save_training_state` wrote; the number of ranks may differ. A collective.

    Raises:
        ValueError: the checkpoint has no teacher and this run needs one.
    """
    folder = Path(path, "policy")
    state = _actor_state(learner)
    saved = FileSystemReader(str(folder)).read_metadata().state_dict_metadata
    random_state = _random_state(learner)
    if random_state.keys() <= saved.keys():
        state |= random_state
    else:
        logger.warning("%s has no random state for rank %d; it starts from the seed.", folder, learner.place.rank)
    load(state, checkpoint_id=str(folder))
    set_optimizer_state_dict(learner.model, learner.optimizer, state["optimizer"])
    learner.num_steps = int(state["num_steps"])
    for name, value in random_state.items():
        if name in state:
            torch.set_rng_state(value) if name.endswith("cpu") else torch.cuda.set_rng_state(value)
    if ref is None:
        return
    if not Path(path, "teacher").is_dir():
        raise ValueError(f"{path} holds no teacher, but this run needs one: it was saved by a run without a teacher.")
    teacher_state = ref.state_dict()
    load(teacher_state, checkpoint_id=str(Path(path, "teacher")))
    ref.load_state_dict(teacher_state)


def _actor_state(learner: Learner) -> dict[str, Any]:
    trained = {name: value.detach() for name, value in learner.model.named_parameters() if value.requires_grad}
    optimizer = get_optimizer_state_dict(learner.model, learner.optimizer)
    return {"model": trained, "optimizer": optimizer, "num_steps": learner.num_steps}


def _random_state(learner: Learner) -> dict[str, torch.Tensor]:
    """Of this rank's generators: under the rank's own name, since the others' differ."""
    name = f"random_state_{learner.place.rank}"
    state = {f"{name}_cpu": torch.get_rng_state()}
    if learner.place.device.type == "cuda":
        state[f"{name}_cuda"] = torch.cuda.get_rng_state()
    return state
