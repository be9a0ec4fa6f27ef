"""Requests to stop, from a person or from Slurm, as an exception that closes everything on its way out.

SIGINT raises KeyboardInterrupt by itself. SIGTERM and SIGHUP would end the driver at once, with nothing said in
`status.json`; here they raise `Terminated`, a KeyboardInterrupt, so that nothing mistakes them for an error.
"""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

SAME_REQUEST = 10.0
"""Seconds in which another signal is the same request: Slurm and shells tell a process more than once."""


class Terminated(KeyboardInterrupt):
    """A signal asked the run to stop.

    Args:
        number: of the signal.
    """

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.exit_status = 128 + number


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
