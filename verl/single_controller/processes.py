"""What can be asked of a process from outside, also when it hangs: whether it is there, its memory, where it is.

Everything is read from /proc, so it must be asked on the process's own machine. Stacks come from the process itself:
`answer_with_stacks` lets a signal write them to its log in C, which works while Python waits in a lock, in a collective
or in native code. A process that is stopped, or waits for a disk, cannot answer; then its state is the news.
"""

from __future__ import annotations

import faulthandler
import os
import signal
import sys
import threading
import time
import traceback
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

PAGE = os.sysconf("SC_PAGE_SIZE")
TICKS = os.sysconf("SC_CLK_TCK")
STATES = {
    "R": "running",
    "S": "waiting",
    "D": "waiting for a disk or a device, and deaf to signals meanwhile",
    "T": "stopped by a signal (SIGSTOP)",
    "t": "stopped by a debugger",
    "Z": "dead",
}
DEAF = "DTtZ"
"""States in which a process answers no signal."""
ANSWER_SECONDS = 3.0
QUIET_SECONDS = 0.1
"""An answer is whole when the log has not grown for so long."""
STACK_LINES = 80


@dataclass(frozen=True)
class ProcessId:
    """One process for ever: numbers are used again."""

    pid: int
    started: int
    """Clock ticks between the machine's start and its own."""


@dataclass(frozen=True)
class Report:
    """Where a process stands."""

    text: str
    """Its state in a line, then the stacks of its threads."""
    can_answer: bool
    """False: it is dead or stopped, or waits for a disk. The reason why others wait for it, perhaps."""


def this_process() -> ProcessId:
    """The caller's."""
    return ProcessId(os.getpid(), int(_stat(os.getpid())[19]))


def is_alive(process: ProcessId) -> bool:
    """Whether the process is there; a zombie is not. Only for processes of this machine."""
    fields = _stat(process.pid)
    return bool(fields) and int(fields[19]) == process.started and fields[0] != "Z"


def is_stopped(process: ProcessId) -> bool:
    """Whether the process is held by a signal or a debugger. Only for processes of this machine."""
    fields = _stat(process.pid)
    return bool(fields) and int(fields[19]) == process.started and fields[0] in "Tt"


def resident_bytes(process: ProcessId) -> int:
    """Its memory with the pages it shares with others; 0 when it is gone."""
    fields = _stat(process.pid)
    return int(fields[21]) * PAGE if fields and int(fields[19]) == process.started else 0


def end(process: ProcessId) -> None:
    """SIGKILL, which ends stopped processes too. Nothing happens when it is gone."""
    if is_alive(process):
        with suppress(ProcessLookupError):
            os.kill(process.pid, signal.SIGKILL)


def answer_with_stacks() -> None:
    """From now on SIGUSR1 writes the stacks of all threads to this process's stderr (descriptor 2)."""
    faulthandler.register(signal.SIGUSR1, file=2, all_threads=True)


def describe(process: ProcessId, log: str) -> Report:
    """Where a process stands; takes up to `ANSWER_SECONDS`.

    Args:
        process: on this machine; it has called `answer_with_stacks`.
        log: the file that its stderr goes to.
    """
    if not is_alive(process):
        return Report("dead", can_answer=False)
    fields = _stat(process.pid)
    cpu = (int(fields[11]) + int(fields[12])) / TICKS
    line = f"{STATES.get(fields[0], fields[0])}, {cpu:.1f} s of CPU time"
    if fields[0] in DEAF:
        return Report(line, can_answer=False)
    return Report(f"{line}\n{_stacks(process.pid, Path(log))}", can_answer=True)


def _stacks(pid: int, log: Path) -> str:
    """Ask for the stacks and read the answer."""
    try:
        begin = size = log.stat().st_size
        os.kill(pid, signal.SIGUSR1)
        deadline, grown_at = time.monotonic() + ANSWER_SECONDS, None
        while time.monotonic() < deadline and (grown_at is None or time.monotonic() - grown_at < QUIET_SECONDS):
            time.sleep(0.02)
            if (now := log.stat().st_size) != size:
                size, grown_at = now, time.monotonic()
        with log.open("rb") as file:
            file.seek(begin)
            lines = file.read().decode(errors="replace").splitlines()
    except OSError as error:
        return f"(no stacks: {error})"
    return "\n".join(f"  | {line}" for line in lines[:STACK_LINES]) or "(no stacks: it did not answer)"


def own_stacks() -> str:
    """The stacks of all Python threads of the calling process, the main one first."""
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    parts: list[str] = []
    for ident, frame in sys._current_frames().items():
        text = "".join(traceback.format_stack(frame)).rstrip()
        part = f"Thread {names.get(ident, ident)}:\n{text}"
        parts.insert(0 if ident == threading.main_thread().ident else len(parts), part)
    return "\n".join(parts)


def _stat(pid: int) -> list[str]:
    """Fields of /proc/<pid>/stat from the state on (field 3 of proc(5) is number 0 here); empty when it is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []
