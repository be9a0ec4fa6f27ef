"""An engine that does not see the trainer's memory, as if it were on another machine; importable by Ray's processes."""

import os
import signal
from pathlib import Path

from verl.single_controller import dispatch
from verl.weights import Announcement, SharedReader
from verl.workers.rollout import RolloutWorker


class Blind(SharedReader):
    def open(self, shared):
        return None


class FarWorker(RolloutWorker):
    """Ranks in `far` are blind; the one that a file names dies when a broadcast is announced to it."""

    def __init__(self, spec, far, victim):
        super().__init__(spec)
        if self.rank_info.rank in far:
            self._reader = Blind()
        self.victim = Path(victim)
        self.received = []

    @dispatch()
    def receive_bucket(self, part):
        self.received.append(type(part).__name__)
        is_last_word = self.received.count("Announcement") > 1 and isinstance(part, Announcement)
        if is_last_word and self.victim.exists() and self.victim.read_text() == str(self.rank_info.rank):
            self.victim.unlink()
            os.kill(os.getpid(), signal.SIGKILL)
        return super().receive_bucket(part)

    @dispatch()
    def take_received(self):
        received, self.received = self.received, []
        return received
