"""A rollout worker that goes wrong when it is told to: importable by name, so that Ray's processes find it."""

import os
import signal
import threading
from dataclasses import replace

from verl.single_controller import Arguments, dispatch
from verl.workers.rollout import RolloutWorker


def die():
    os.kill(os.getpid(), signal.SIGKILL)


def hang():
    threading.Event().wait()


GARBAGE = {
    "unknown request": lambda rollout: replace(rollout, request_id=10_000),
    "other weights": lambda rollout: replace(rollout, weight_version=rollout.weight_version - 1),
    "other prompt": lambda rollout: replace(rollout, prompt_ids=[1]),
    "nan": lambda rollout: replace(rollout, log_probs=[float("nan"), *rollout.log_probs[1:]]),
    "positive log-prob": lambda rollout: replace(rollout, log_probs=[*rollout.log_probs[:-1], 0.5]),
    "missing log-prob": lambda rollout: replace(rollout, log_probs=rollout.log_probs[1:]),
    "missing mask": lambda rollout: replace(rollout, response_mask=[]),
    "no token": lambda rollout: replace(rollout, response_ids=[], log_probs=[], response_mask=[]),
    "no such token": lambda rollout: replace(rollout, response_ids=[96, *rollout.response_ids[1:]]),
    "too long": lambda rollout: replace(
        rollout, response_ids=[5] * 200, log_probs=[-1.0] * 200, response_mask=[1] * 200
    ),
}


class FaultyWorker(RolloutWorker):
    """Well, until `spoil`; the worker that replaces it is well again."""

    fault = ""

    @dispatch()
    def spoil(self, fault):
        self.fault = fault

    @dispatch()
    def pid(self):
        return os.getpid()

    @dispatch(Arguments.SPLIT, streams=True)
    def generate(self, requests):
        parts = super().generate(requests)
        yield next(parts)  # the first responses are delivered, whatever comes
        if self.fault == "dies while it writes":
            die()
        if self.fault == "hangs while it writes":
            hang()
        if self.fault == "raises":
            raise OSError("no space for the cache")
        if self.fault == "stops early":
            return
        for part in parts:
            if self.fault == "answers twice":
                yield part
            if self.fault == "no responses":
                yield "what is this"
            change = GARBAGE.get(self.fault, lambda rollout: rollout)
            yield [change(rollout) for rollout in part]

    @dispatch()
    def begin_sync(self, version):
        if self.fault == "dies when a sync begins":
            die()
        super().begin_sync(version)

    @dispatch()
    def receive_bucket(self, part):
        if self.fault == "dies while it receives":
            die()
        if self.fault == "hangs while it receives":
            hang()
        return super().receive_bucket(part)

    @dispatch()
    def finish_sync(self, token_ids=()):
        if self.fault == "dies when a sync ends":
            die()
        report = super().finish_sync(token_ids)
        if self.fault == "scores something else":
            report = replace(report, log_probs=[value - 0.1 for value in report.log_probs])
        if self.fault == "received something else":
            report = replace(report, digests=report.digests[::-1])
        return report


class FailingStart(FaultyWorker):
    """Cannot be constructed while a file exists; or hangs then, once, if the file says so."""

    def __init__(self, spec, flag):
        if flag.exists():
            if flag.read_text() == "hang":
                flag.unlink()
                hang()
            raise MemoryError("no room for another engine")
        super().__init__(spec)
