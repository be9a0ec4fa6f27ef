"""The life of a checkpoint folder, so that a crash at any moment leaves either a whole one or none.

    begin_save    <run>/global_step_N.tmp                 workers and driver write into it
    Commit        manifest last, rename to global_step_N  from here on it counts
                  latest_checkpointed_iteration.txt       for people and scripts, replaced in one go
                  only then may older ones go

A name that ends in .tmp or .set_aside never counts. If checkpoints exist and none is usable, resuming is an error:
starting again at step 0 would overwrite the run.
"""

from __future__ import annotations

import logging
import os
import re
import shutil
import socket
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from verl.checkpoint.errors import CheckpointError
from verl.checkpoint.manifest import shard_problems, sync_folder, verify, write_manifest, write_synced

TRACKER = "latest_checkpointed_iteration.txt"
PARTIAL = ".tmp"
SET_ASIDE = ".set_aside"
LAG = 60.0
"""Seconds after which a machine has surely heard of files that others wrote: NFS asks again after a minute."""

logger = logging.getLogger(__name__)


def begin_save(run_folder: str | Path, step: int) -> Path:
    """Make the empty folder that a checkpoint is written into; leftovers of interrupted saves are removed."""
    run_folder = Path(run_folder)
    run_folder.mkdir(parents=True, exist_ok=True)
    for leftover in run_folder.glob(f"global_step_*{PARTIAL}"):
        shutil.rmtree(leftover)
    partial = run_folder / f"global_step_{step}{PARTIAL}"
    partial.mkdir()
    return partial


@dataclass(frozen=True)
class Commit:
    """What makes a checkpoint of a written folder. It is made by the driver and travels to who is last to write."""

    partial: Path
    """What `begin_save` gave."""
    num_kept: int | None = None
    """Older checkpoints than the newest so many are deleted; None keeps all."""
    best_step: int | None = None
    """The newest checkpoint that is not later than this step is not deleted."""
    needed: tuple[str, ...] = ()
    """Files in `partial` that the driver wrote, which may be on another machine."""

    def run(self) -> Path:
        """Commit, then delete what is no longer kept. Returns the checkpoint."""
        final = commit_save(self.partial, self.needed)
        if self.num_kept:
            prune(final.parent, self.num_kept, self.best_step)
        return final


def commit_save(partial: Path, needed: Sequence[str] = ()) -> Path:
    """Turn a written folder into a checkpoint. Returns its final name.

    Args:
        partial: the folder.
        needed: files that must be in it, besides the shards that its `.metadata` refer to.

    Checkpoints of this step and of later ones are from a run that was begun again before them. The same step is
    replaced; later ones are renamed, so that nobody resumes from, or deletes, what does not follow from this one.

    Raises:
        CheckpointError: files are not there, which other machines have written.
    """
    _wait_for_others(partial, needed)
    final = partial.with_name(partial.name.removesuffix(PARTIAL))
    write_manifest(partial)
    for later in checkpoints(final.parent):
        if step_of(later) > step_of(final):
            _set_aside(later)
    replaced = final.with_name(f"{final.name}.replaced{PARTIAL}")
    if final.exists():
        final.rename(replaced)
    partial.rename(final)
    sync_folder(final.parent)
    tracker = final.parent / TRACKER
    write_synced(tracker.with_suffix(PARTIAL), f"{step_of(final)}\n")
    os.replace(tracker.with_suffix(PARTIAL), tracker)
    sync_folder(final.parent)
    if replaced.exists():
        shutil.rmtree(replaced)
    return final


def find_latest(run_folder: str | Path) -> Path | None:
    """The newest usable checkpoint of a run, hashes checked; None when the run has never saved one.

    Raises:
        CheckpointError: there are checkpoints (or the tracker names one) and none is usable.
    """
    run_folder = Path(run_folder)
    problems: list[str] = []
    for folder in reversed(checkpoints(run_folder)):
        try:
            verify(folder)
        except CheckpointError as error:
            logger.warning("%s Trying the one before it.", error)
            problems.append(str(error))
            continue
        if problem := _tracker_problem(run_folder, step_of(folder)):
            logger.warning("%s The newest whole checkpoint is %s.", problem, folder)
        return folder
    if problem := _tracker_problem(run_folder, 0):
        problems.append(problem)
    if problems:
        raise CheckpointError(
            f"{run_folder} has checkpoints, but none can be resumed from. {' '.join(problems)} Restore one, or start"
            " anew in another folder (trainer.default_local_dir) or with trainer.resume_mode=disable."
        )
    return None


def newest_committed(run_folder: str | Path) -> Path | None:
    """The newest checkpoint by name and size, without reading it: for messages."""
    for folder in reversed(checkpoints(Path(run_folder))):
        try:
            verify(folder, with_hashes=False)
        except CheckpointError:
            continue
        return folder
    return None


def prune(run_folder: str | Path, num_kept: int, best_step: int | None = None) -> None:
    """Delete all but the newest `num_kept` checkpoints, oldest first. Call it after a commit.

    With `best_step` the newest one that is not later stays too.
    """
    found = checkpoints(Path(run_folder))
    best = [folder for folder in found if best_step is not None and step_of(folder) <= best_step][-1:]
    for folder in found[:-num_kept]:
        if folder in best:
            continue
        doomed = folder.with_name(folder.name + PARTIAL)
        folder.rename(doomed)  # so that a half-deleted folder does not count
        shutil.rmtree(doomed)


def step_of(folder: str | Path) -> int:
    """The step in the name of a checkpoint folder. Raises CheckpointError for another name."""
    match = re.fullmatch(r"global_step_(\d+)", Path(folder).name)
    if not match:
        raise CheckpointError(f"{folder} is not named like a checkpoint, global_step_<number>.")
    return int(match[1])


def checkpoints(run_folder: Path) -> list[Path]:
    """Folders named like a checkpoint, whole or not, by ascending step."""
    found = [path for path in run_folder.glob("global_step_*") if re.fullmatch(r"global_step_\d+", path.name)]
    return sorted(found, key=step_of)


def _wait_for_others(partial: Path, needed: Sequence[str]) -> None:
    """Wait until the files of all machines can be seen here. Raises CheckpointError if they cannot."""
    deadline = time.monotonic() + LAG
    while problems := [f"{n} is missing" for n in needed if not (partial / n).is_file()] + shard_problems(partial):
        if time.monotonic() >= deadline:
            raise CheckpointError(
                f"on {socket.gethostname()}, which completes it, {'; '.join(problems[:5])}. The run folder"
                " (trainer.default_local_dir) must be on a file system that all machines of the run share."
            )
        time.sleep(1)


def _set_aside(folder: Path) -> None:
    """Rename a checkpoint so that it does not count; nothing is deleted."""
    target = folder.with_name(folder.name + SET_ASIDE)
    if target.exists():
        shutil.rmtree(target)
    folder.rename(target)
    logger.warning("%s does not follow from the steps that are saved now; it is called %s now.", folder, target.name)


def _tracker_problem(run_folder: Path, newest: int) -> str | None:
    """What the tracker says and the folder does not have. A tracker that is behind is no problem: it comes last."""
    tracker = run_folder / TRACKER
    if not tracker.exists():
        return None
    named = tracker.read_text(encoding="utf-8", errors="replace").strip()
    if not named.isdecimal():
        return f"{tracker} should hold the number of a step, but holds {named[:40]!r}."
    if int(named) > newest and not (run_folder / f"global_step_{named}").exists():
        return f"{tracker} names step {named}, but there is no folder global_step_{named}."
    return None
