"""Folders in which weights pass from an engine's process to its worker processes: files in memory (/dev/shm).

Such a folder holds a whole model. An engine that is killed cannot remove it, and the machine would go without that
memory until it is started again. So whoever makes a folder holds a lock on it. The kernel takes the lock away when the
process ends, however it does, and a folder without a lock is a leftover that the next engine of the machine removes.

A lock, not the process's number in the folder's name: it also holds between containers that share /dev/shm, which do
not see each other's processes.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

SHARED_MEMORY = Path("/dev/shm")
ROOT = SHARED_MEMORY if SHARED_MEMORY.is_dir() else Path(tempfile.gettempdir())
LOCKED = "verl-weights-"
"""How the names of locked folders begin."""
NEW = "verl-new-weights-"
"""The same before they are locked: empty."""


@contextmanager
def weight_folder() -> Iterator[Path]:
    """A new folder, which is removed at the end; so are those of engines that were killed."""
    remove_leftovers()
    new = Path(tempfile.mkdtemp(prefix=NEW, dir=ROOT))
    lock = os.open(new, os.O_RDONLY)
    folder = ROOT / f"{LOCKED}{new.name.removeprefix(NEW)}"
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        new.rename(folder)  # only now: a folder of this name without a lock is a leftover
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(lock)


def remove_leftovers() -> None:
    """Remove the folders of processes that are gone. Those of other users stay, if they may not be touched."""
    for folder in ROOT.glob(f"{LOCKED}*"):
        try:
            lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        except OSError:  # removed meanwhile, or another user's
            continue
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(folder, ignore_errors=True)
        except BlockingIOError:  # in use
            pass
        finally:
            os.close(lock)
