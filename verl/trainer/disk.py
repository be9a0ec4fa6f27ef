"""Room for a checkpoint, asked before the first step: a disk that is full after a day costs the day."""

from __future__ import annotations

import shutil
from pathlib import Path

from verl.checkpoint import CheckpointError
from verl.trainer.memory import human


def check_room(folder: Path, needed: int) -> None:
    """Refuse a run folder whose disk cannot take one more checkpoint.

    A quota shows up in the free bytes on some file systems only; a save that hits one ends the run with its message.

    Args:
        folder: exists.
        needed: bytes of a checkpoint.

    Raises:
        CheckpointError: names folder, needed and free bytes.
    """
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise CheckpointError(
            f"trainer.default_local_dir={folder}: a checkpoint of this run needs {needed:,} bytes ({human(needed)}),"
            f" and the disk has {free:,} bytes ({human(free)}) free. Free some, name a folder on another disk, or"
            " switch checkpoints off (trainer.save_freq=-1 trainer.save_last=false)."
        )
