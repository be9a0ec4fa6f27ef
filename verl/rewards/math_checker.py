"""Ask in a process of its own whether two answers are the same mathematics, for a bounded time.

Simplifying what a model wrote may take for ever or all memory (`9^{9^{9^9}}`), in C code that hears no signal. The
usual ways out do not hold: SIGALRM works in the main thread only, and a thread cannot be ended. A process can. It is
started once and kept, because importing sympy takes a second; one that is overdue is killed, and the next question
starts another. So this may be called from any number of threads.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import select
import subprocess
import sys
import time
from pathlib import Path

TIMEOUT = 5.0
"""Seconds for one comparison."""
START_TIMEOUT = 120.0
"""Seconds for importing the library, once per process; a cold disk is slow."""
_SCRIPT = Path(__file__).with_name("math_equivalence.py")


class _Checker:
    """One process and the pipes to it. Raises RuntimeError when it cannot be started."""

    def __init__(self) -> None:
        # -P: the scorers' folder must not come before the standard library in the child's search path.
        command = [sys.executable, "-P", str(_SCRIPT), str(TIMEOUT)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert self._process.stdin
        assert self._process.stdout
        self._questions, self._answers = self._process.stdin, self._process.stdout
        greeting = self._read_line(START_TIMEOUT)
        if greeting != "ready":
            self.kill()
            reason = greeting or f"it did not answer within {START_TIMEOUT:g} s, or died"
            raise RuntimeError(f"The process that compares mathematical answers does not start: {reason}")

    @property
    def is_alive(self) -> bool:
        return self._process.poll() is None

    def ask(self, gold: str, pred: str) -> bool | None:
        """Whether they are equal; None when there is no answer in time, and the process must not be used again."""
        try:
            self._questions.write(json.dumps([gold, pred]).encode() + b"\n")
            self._questions.flush()
        except OSError:
            return None
        return {"true": True, "false": False}.get(self._read_line(TIMEOUT))

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()
        self._answers.close()
        with contextlib.suppress(OSError):
            self._questions.close()

    def _read_line(self, seconds: float) -> str:
        """The next line; "" when time is up or the process has died."""
        fd, deadline, text = self._answers.fileno(), time.monotonic() + seconds, b""
        poll = select.poll()
        poll.register(fd, select.POLLIN)
        while not text.endswith(b"\n"):
            left = deadline - time.monotonic()
            chunk = os.read(fd, 4096) if left > 0 and poll.poll(1000 * left) else b""
            if not chunk:
                return ""
            text += chunk
        return text.decode().strip()


_idle: list[_Checker] = []


def are_equal(gold: str, pred: str) -> bool:
    """Whether `pred` is the same mathematics as `gold`, by math-verify; False when that is not seen within `TIMEOUT`.

    Raises RuntimeError when the process cannot be started, such as without the library.
    """
    checker = _borrow()
    answer = checker.ask(gold, pred)
    if answer is None:
        checker.kill()
        return False
    _idle.append(checker)
    return answer


@atexit.register
def close() -> None:
    """End the idle processes."""
    while _idle:
        _idle.pop().kill()


def _borrow() -> _Checker:
    """An idle process, or a new one."""
    while _idle:
        try:
            checker = _idle.pop()
        except IndexError:  # another thread was faster
            break
        if checker.is_alive:
            return checker
        checker.kill()
    return _Checker()
