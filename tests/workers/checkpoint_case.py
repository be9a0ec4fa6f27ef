"""A rank that saves, trains on and resumes. As a program one of two gloo ranks: checkpoint_case.py FOLDER PORT RANK."""

import sys
from pathlib import Path

import torch
from training_case import TAUGHT, make_actor, make_config, part, teacher_of, weights_of

import verl.checkpoint.folders
from verl.checkpoint import CheckpointError, Commit
from verl.models.full_weights import full_tensor
from verl.single_controller import RankInfo
from verl.workers.actor import ActorWorker


def new_actor(folder: Path, info: RankInfo | None = None, fsdp_size: int = -1) -> ActorWorker:
    return make_actor(make_config(str(folder / "tied"), teacher_update_rate=0.3, fsdp_size=fsdp_size), info)


def train_on(worker: ActorWorker) -> None:
    worker.update_policy([part(TAUGHT, worker, 2)])


def everything(worker: ActorWorker) -> dict:
    """Whole tensors of all that a checkpoint holds, copied."""
    named = dict(worker.model.named_parameters())
    moments = {name: worker.learner.optimizer.state[value] for name, value in named.items()}
    return {
        "weights": weights_of(worker),
        "teacher": teacher_of(worker),
        "moments": {
            f"{name}.{key}": full_tensor(value, worker.place.device).clone()
            for name, state in moments.items()
            for key, value in state.items()
        },
        "counts": (worker.learner.num_steps, worker._ref.num_updates),
    }


def draws(worker: ActorWorker) -> list[float]:
    """The next random numbers of this rank."""
    return torch.rand(3).tolist()


def save_and_go_on(folder: Path, name: str, info: RankInfo | None = None, fsdp_size: int = -1) -> dict:
    """Save in the background, and move every tensor at once: what is written must be the state of the call."""
    worker = new_actor(folder, info, fsdp_size)
    train_on(worker)
    torch.manual_seed(40 + worker.place.rank)
    partial = folder / name / "global_step_1.tmp"
    partial.mkdir(parents=True, exist_ok=True)
    worker.save_checkpoint(str(partial / "actor"), Commit(partial), in_background=True)
    found = {"draws": draws(worker)}
    train_on(worker)
    assert worker.checkpoint_is_written(wait=True)
    found["after"] = everything(worker)
    return found


def resume_and_go_on(folder: Path, name: str, info: RankInfo | None = None, fsdp_size: int = -1) -> dict:
    worker = new_actor(folder, info, fsdp_size)
    worker.load_checkpoint(str(folder / name / "global_step_1" / "actor"))
    found = {"draws": draws(worker), "at": everything(worker)}
    train_on(worker)
    return found | {"after": everything(worker)}


def state_at_save(folder: Path, info: RankInfo | None = None, fsdp_size: int = -1) -> dict:
    """What `save_and_go_on` saves, and how many bytes this rank's part of it is said to have."""
    worker = new_actor(folder, info, fsdp_size)
    train_on(worker)
    return everything(worker) | {"bytes": worker.checkpoint_bytes()}


def save_to_own_disk(folder: Path, info: RankInfo) -> str:
    """Save where only this rank sees it, as on machines that share no file system. Returns what it fails with."""
    worker = new_actor(folder, info)
    partial = folder / f"disk-{info.rank}" / "global_step_1.tmp"
    partial.mkdir(parents=True)
    verl.checkpoint.folders.LAG = 0.0
    worker.save_checkpoint(str(partial / "actor"), Commit(partial), in_background=True)
    try:
        worker.checkpoint_is_written(wait=True)
    except CheckpointError as error:
        return str(error)
    return ""


if __name__ == "__main__":
    folder, port, rank = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    info = RankInfo(rank, 2, rank, "127.0.0.1", port)
    results = {
        "at": state_at_save(folder, info),
        "saved by two": save_and_go_on(folder, "two", info),
        "two to two": resume_and_go_on(folder, "two", info),
        "one to two": resume_and_go_on(folder, "one", info),
        "at, copied": state_at_save(folder, info, fsdp_size=1),
        "saved by copies": save_and_go_on(folder, "copies", info, fsdp_size=1),
        "copies to shards": resume_and_go_on(folder, "copies", info),
        "shards to copies": resume_and_go_on(folder, "two", info, fsdp_size=1),
        "on own disks": save_to_own_disk(folder, info),
    }
    torch.save(results, folder / f"results-{rank}.pt")
