"""A training rank that writes checkpoints in a thread, as the real one does, but only while it is awaited."""

import os
import signal
import threading
from pathlib import Path

from verl.checkpoint import CheckpointError, Commit
from verl.single_controller import Worker, dispatch


class SlowWriter(Worker):
    """Closing it loses what it has not written.

    Args:
        when_awaited: "writes", "fails", "dies", or "is interrupted": then nothing is written, and the driver, where
            this lives in its process, gets a signal.
    """

    def __init__(self, when_awaited: str = "writes") -> None:
        self.when_awaited = when_awaited
        self.is_awaited = threading.Event()
        self.is_written = threading.Event()

    @dispatch()
    def save_checkpoint(self, path: str, commit: Commit, in_background: bool) -> None:
        assert in_background
        threading.Thread(target=self._write, args=(Path(path), commit), daemon=True).start()

    @dispatch()
    def checkpoint_is_written(self, wait: bool) -> bool:
        if not wait:
            return self.is_written.is_set()
        if self.when_awaited == "fails":
            raise CheckpointError("OSError: the disk is gone")
        if self.when_awaited == "dies":
            os.kill(os.getpid(), signal.SIGKILL)
        if self.when_awaited == "is interrupted":
            os.kill(os.getpid(), signal.SIGINT)
        else:
            self.is_awaited.set()
        assert self.is_written.wait(60)
        return True

    def _write(self, path: Path, commit: Commit) -> None:
        self.is_awaited.wait()
        path.mkdir()
        (path / "shard").write_text("weights")
        commit.run()
        self.is_written.set()
