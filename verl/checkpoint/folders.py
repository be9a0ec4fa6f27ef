"""The life of a checkpoint folder, so that a crash at any moment leaves either a whole one or none.

    begin_save    <run>/global_step_N.tmp                 workers and driver write into it
    commit_save   manifest last, rename to global_step_N  from here on it counts
                  latest_checkpointed_iteration.txt       for people and scripts, replaced in one go
    prune         only then may older ones go

A name that ends in .tmp never counts. If checkpoints exist and none is usable, resuming is an error: starting again at
step 0 would overwrite the run.
"""

from __future__ import annotations

import logging
import os
import re
import shutil
from pathlib import Path

from verl.checkpoint.manifest import CheckpointError, sync_folder, verify, write_manifest, write_synced

TRACKER = "latest_checkpointed_iteration.txt"
PARTIAL = ".tmp"

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


def commit_save(partial: Path) -> Path:
    """Turn a written folder into a checkpoint. Returns its final name.

    A checkpoint of the same step (from a run that was begun again) is replaced.
    """
    final = partial.with_name(partial.name.removesuffix(PARTIAL))
    write_manifest(partial)
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
    for folder in reversed(_checkpoints(run_folder)):
        try:
            verify(folder)
        except CheckpointError as error:
            logger.warning("%s Trying the one before it.", error)
            problems.append(str(error))
            continue
        return folder
    if (run_folder / TRACKER).exists() and not problems:
        named = (run_folder / TRACKER).read_text(encoding="utf-8").strip()
        problems.append(f"{TRACKER} names step {named}, but there is no folder global_step_{named}.")
    if problems:
        raise CheckpointError(
            f"{run_folder} has checkpoints, but none can be resumed from. {' '.join(problems)} Restore one, or start"
            " anew in another folder (trainer.default_local_dir) or with trainer.resume_mode=disable."
        )
    return None


def prune(run_folder: str | Path, num_kept: int) -> None:
    """Delete all but the newest `num_kept` checkpoints, oldest first. Call it after a commit."""
    for folder in _checkpoints(Path(run_folder))[:-num_kept]:
        doomed = folder.with_name(folder.name + PARTIAL)
        folder.rename(doomed)  # so that a half-deleted folder does not count
        shutil.rmtree(doomed)


def step_of(folder: str | Path) -> int:
    """The step in the name of a checkpoint folder. Raises CheckpointError for another name."""
    match = re.fullmatch(r"global_step_(\d+)", Path(folder).name)
    if not match:
        raise CheckpointError(f"{folder} is not named like a checkpoint, global_step_<number>.")
    return int(match[1])


def _checkpoints(run_folder: Path) -> list[Path]:
    """Folders named like a checkpoint, whole or not, by ascending step."""
    found = [path for path in run_folder.glob("global_step_*") if re.fullmatch(r"global_step_\d+", path.name)]
    return sorted(found, key=step_of)


__all__ = ["CheckpointError", "begin_save", "commit_save", "find_latest", "prune", "step_of", "verify"]
