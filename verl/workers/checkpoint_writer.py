"""Writing checkpoints while training goes on.

`save` copies this rank's state to host memory, which is all that training waits for; a thread then writes the copy as
torch distributed checkpoints. The ranks' threads meet over a gloo group of their own, so they and the training's
collectives cannot be mistaken for each other. When all ranks have written, rank 0 commits the folder (`Commit`):
hashes, manifest, rename, tracker. So the driver waits for nothing, and a folder that counts is whole.

`torch.distributed.checkpoint.async_save` is the same without the commit, which has to be the last to happen.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from concurrent.futures import Future
from pathlib import Path
from threading import Thread
from typing import Any, cast

import torch.distributed as dist
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.filesystem import FileSystemWriter
from torch.distributed.checkpoint.planner import SavePlan, SavePlanner
from torch.distributed.checkpoint.staging import DefaultStager, StagingOptions
from torch.distributed.checkpoint.state_dict_saver import save
from torch.distributed.checkpoint.storage import WriteResult
from torch.futures import Future as TorchFuture

from verl.checkpoint import CheckpointError, Commit
from verl.checkpoint.dcp import reason

logger = logging.getLogger(__name__)

States = Mapping[str, dict[str, Any]]


class _ShardWriter(FileSystemWriter):
    """torch's writer. A full disk surfaces there as "unexpected pos 704 vs 598"; this one raises what the disk said."""

    def write_data(self, plan: SavePlan, planner: SavePlanner) -> TorchFuture[list[WriteResult]]:
        try:
            return super().write_data(plan, planner)
        except RuntimeError as error:
            cause: BaseException | None = error
            while cause is not None and not isinstance(cause, OSError):
                cause = cause.__cause__ or cause.__context__
            raise cause or error from error


class CheckpointWriter:
    """Writes this rank's part of checkpoints, one after the other. Making one is a collective of all ranks."""

    def __init__(self) -> None:
        self._group = cast(dist.ProcessGroup, dist.new_group(backend="gloo"))
        self._is_committer = dist.get_rank() == 0
        self._pending: Future[None] | None = None

    def save(self, path: str, states: States, commit: Commit | None, in_background: bool) -> None:
        """Write `<path>/<name>` for each state; then commit. A collective.

        Args:
            path: a folder inside the one that is committed.
            states: live tensors and numbers, by name.
            commit: what makes it a checkpoint; None only writes.
            in_background: return when the states are copied; `is_done` tells the rest.

        Raises:
            CheckpointError: a file could not be written, now or for the checkpoint before this one.
        """
        self.is_done(wait=True)
        if not in_background:
            self._write(path, states, commit)
            return
        stager = DefaultStager(StagingOptions(False, False, False, False))
        copies = {name: cast(dict[str, Any], stager.stage(state)) for name, state in states.items()}
        stager.close()
        self._pending = done = Future[None]()

        def work() -> None:
            try:
                done.set_result(self._write(path, copies, commit))
            except BaseException as error:
                done.set_exception(error)

        # a process that is told twice to end does not wait for it at its exit
        Thread(target=work, name="checkpoint", daemon=True).start()

    def is_done(self, wait: bool = False) -> bool:
        """Whether this rank has nothing left to write (rank 0: or to commit). Raises CheckpointError if that failed."""
        pending = self._pending
        if pending is None:
            return True
        if not (wait or pending.done()):
            return False
        self._pending = None
        pending.result()
        return True

    def close(self) -> None:
        """Finish what is being written. An error is only logged: the run is over."""
        try:
            self.is_done(wait=True)
        except Exception as error:
            logger.error("The last checkpoint was not completed: %s", error)

    def _write(self, path: str, states: States, commit: Commit | None) -> None:
        try:
            for name, state in states.items():
                save(state, storage_writer=_ShardWriter(Path(path, name)), process_group=self._group)
            if commit and self._is_committer:
                commit.run()
        except CheckpointException as error:
            raise CheckpointError(reason(error)) from error
        except OSError as error:
            raise CheckpointError(f"{type(error).__name__}: {error}") from error
