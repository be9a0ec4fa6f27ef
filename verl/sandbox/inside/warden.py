"""Watches an attempt from outside its namespaces: time, CPU time and memory of all its processes together, and its end.

The limits of the kernel (rlimits) are per process, which many small processes could add up to anything; here they are
summed, every few milliseconds, over whatever runs below this process. Memory in the scratch folder is bounded by the
size of that folder and not counted again.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import time
from typing import NoReturn

from . import kernel
from .cell import Order

_PAUSE_MS = 20
_TICKS = os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGE_SIZE")


class Warden:
    """Sees attempts to their end, one after the other.

    Args:
        isolated: whether an attempt is a namespace of processes, which the kernel empties when its first process dies.
            Otherwise orphans are gathered and killed, which a program that forks faster than it is looked for escapes.
    """

    def __init__(self, isolated: bool) -> None:
        self._isolated = isolated
        self._others = set(_pids())
        self._common_bytes = _private_bytes(os.getpid())  # what every fork shares with this process, or nearly so
        if not isolated:
            kernel.become_subreaper()

    def until_end(self, child: int, order: Order, control: socket.socket) -> dict[str, object]:
        """Wait for `child`; kill it when a limit is passed or the grader says so, and with it all that it started."""
        begin = time.monotonic()
        pidfd = os.pidfd_open(child)
        poll = select.poll()
        poll.register(pidfd, select.POLLIN)
        poll.register(control, select.POLLIN)
        reason = None
        while True:
            left = begin + order.wall_seconds - time.monotonic()
            pause = _PAUSE_MS if reason is None else 1000
            events = dict(poll.poll(max(0.0, min(pause, left * 1000)) if reason is None else pause))
            if pidfd in events:
                break
            if control.fileno() in events:
                if not control.recv(4096):
                    self._abandon(child)
                reason = reason or "output"
            elif reason is None:
                reason = self._passed(order, time.monotonic() - begin)
            if reason:
                os.kill(child, signal.SIGKILL)
        os.close(pidfd)
        _, status, usage = os.wait4(child, 0)
        if not self._isolated:
            self._kill_orphans()
        return {
            "ended": os.waitstatus_to_exitcode(status),
            "reason": reason,
            "wall": time.monotonic() - begin,
            "cpu": usage.ru_utime + usage.ru_stime,
        }

    def _passed(self, order: Order, wall: float) -> str | None:
        """Which limit has been passed, if any."""
        if wall >= order.wall_seconds:
            return "time"
        pids = self._members()
        if len(pids) > order.num_processes:  # the kernel sees to that, except for a user who is root outside
            return "processes"
        if order.cpu_seconds is not None and sum(map(_cpu_seconds, pids)) > order.cpu_seconds:
            return "time"
        # The address space of a single process is limited by the kernel, and so is its memory.
        if len(pids) > 1 and self._used_bytes(pids) > order.memory_bytes:
            return "memory"
        return None

    def _used_bytes(self, pids: list[int]) -> int:
        private = sum(max(0, _private_bytes(pid) - self._common_bytes) for pid in pids)
        return private + _shared_bytes(pids)

    def _members(self) -> list[int]:
        """All processes of the attempt."""
        if self._isolated:
            return [pid for pid in _pids() if pid not in self._others]
        parents = {pid: int(stat[1]) for pid in _pids() if (stat := _stat(pid))}
        members, found = {os.getpid()}, True
        while found:
            found = {pid for pid, parent in parents.items() if parent in members} - members
            members |= found
        return list(members - {os.getpid()})

    def _abandon(self, child: int) -> NoReturn:
        """The grader has gone; what is isolated goes with this process."""
        os.kill(child, signal.SIGKILL)
        if not self._isolated:
            self._kill_orphans()
        os._exit(0)

    def _kill_orphans(self) -> None:
        while members := self._members():
            for pid in members:
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.kill(pid, signal.SIGKILL)
            with contextlib.suppress(ChildProcessError):
                while os.waitpid(-1, os.WNOHANG)[0]:
                    pass
            time.sleep(0.001)


def _pids() -> list[int]:
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]


def _stat(pid: int) -> list[str]:
    """Fields of /proc/<pid>/stat from the state on; none when the process has gone."""
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
            return file.read().rpartition(")")[2].split()
    except OSError:
        return []


def _cpu_seconds(pid: int) -> float:
    """CPU time of a process and of those of its children that have ended."""
    return sum(map(int, _stat(pid)[11:15])) / _TICKS


def _private_bytes(pid: int) -> int:
    """Memory in use that is not backed by a file or shared."""
    try:
        with open(f"/proc/{pid}/statm") as file:
            _, resident, shared, *_ = map(int, file.read().split())
        return (resident - shared) * _PAGE
    except OSError:
        return 0


def _shared_bytes(pids: list[int]) -> int:
    """Sizes of the shared anonymous mappings, each counted once; the part in use can be hidden from `statm`."""
    sizes: dict[str, int] = {}
    for pid in pids:
        with contextlib.suppress(OSError), open(f"/proc/{pid}/maps", encoding="utf-8", errors="replace") as file:
            for line in file:
                bounds, mode, _, _, inode, *name = line.split(maxsplit=5)
                if mode.endswith("s") and name and name[0].startswith("/dev/zero"):
                    first, last = (int(bound, 16) for bound in bounds.split("-"))
                    sizes[inode] = max(sizes.get(inode, 0), last - first)
    return sum(sizes.values())
