"""Requests to stop, from a person or from Slurm, as an exception that closes everything on its way out.

SIGINT raises KeyboardInterrupt by itself. SIGTERM and SIGHUP would end the driver at once, with nothing said in
`status.json`; here they raise `Terminated`, a KeyboardInterrupt, so that nothing mistakes them for an error.

A request that leaves time to save, such as that of a job near its time limit, is a file: the one that the environment
variable VERL_STOP_FILE names. It is looked for after each step (`RunCheckpoints.save_if_due`). A signal would have to
find the driver behind shells, srun and containers, would kill it while it still imports, and Slurm sends signals to all
processes of a job step, of which Ray's die of them.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

SAME_REQUEST = 10.0
"""Seconds in which another signal is the same request: Slurm and shells tell a process more than once."""

STOP_FILE_VARIABLE = "VERL_STOP_FILE"
EXIT_REQUEUE = 75
"""Exit status: a checkpoint is saved, start the same command again (EX_TEMPFAIL of sysexits.h: try again later)."""


class Terminated(KeyboardInterrupt):
    """A signal asked the run to stop.

    Args:
        number: of the signal.
    """

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.exit_status = 128 + number


class StoppedForNow(KeyboardInterrupt):
    """The run was asked to stop, and has saved a checkpoint.

    Args:
        step: the last one, which is saved.
        goes_on: whether the same command goes on from there.
        what: what is counted.
    """

    def __init__(self, step: int, goes_on: bool, what: str = "step") -> None:
        hint = "the same command goes on from there" if goes_on else "the same command does not resume from it"
        super().__init__(f"asked to stop after {what} {step}, which is saved; {hint}")
        self.exit_status = EXIT_REQUEUE if goes_on else 130


def is_asked_to_stop() -> bool:
    """Whether the file that VERL_STOP_FILE names is there."""
    path = os.environ.get(STOP_FILE_VARIABLE)
    return bool(path) and Path(path).exists()


def reason_of(interrupt: KeyboardInterrupt) -> str:
    """Why the run was interrupted, in a line for `status.json`."""
    reason = str(interrupt) or "SIGINT"
    if is_asked_to_stop() and not isinstance(interrupt, StoppedForNow):
        reason += "; it was asked to stop before, but its step did not end in time: what came after the newest"
        reason += " checkpoint, if there is one, is lost"
    return reason


@contextmanager
def stoppable() -> Iterator[None]:
    """Inside the block SIGTERM and SIGHUP raise `Terminated` in the main thread, unless they are ignored (`nohup`)."""
    if threading.current_thread() is not threading.main_thread():  # only the main one can take signals
        yield
        return
    asked_at: float | None = None

    def stop(number: int, frame: Any) -> None:
        nonlocal asked_at
        if asked_at is None or time.monotonic() - asked_at > SAME_REQUEST:
            asked_at = time.monotonic()
            raise Terminated(number)

    taken = [number for number in (signal.SIGTERM, signal.SIGHUP) if signal.getsignal(number) is not signal.SIG_IGN]
    before = {number: signal.signal(number, stop) for number in taken}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
