"""The walls of a single attempt, put up by the forked process itself before it turns to the program."""

from __future__ import annotations

import os
import resource
from dataclasses import dataclass
from typing import NoReturn

from . import kernel, program, seccomp

_STACK_BYTES = 120 * 1024**2
"""Deep recursion through C is cut there; the kernel leaves at least 128 MiB of room below a stack."""
_NUM_FILES = 128
_NUM_INODES = 4096


@dataclass(frozen=True)
class Order:
    """What an attempt is allowed."""

    wall_seconds: float
    cpu_seconds: float | None
    memory_bytes: int
    num_processes: int
    file_bytes: int
    cpu: int
    """The core it is bound to, so that a crowd of processes slows down nobody but itself."""


class Cell:
    """Puts up the walls in processes forked from this one.

    Args:
        isolated: false puts up none, and only limits.
    """

    def __init__(self, isolated: bool) -> None:
        self._filter = seccomp.Filter() if isolated else None
        with open("/proc/self/statm") as file:
            self._base_bytes = int(file.read().split()[0]) * os.sysconf("SC_PAGE_SIZE")

    def enter(self, order: Order, fds: list[int], tell: int, scratch: str) -> NoReturn:
        """Shut this process in and run the program in the folder `scratch`.

        `fds`: job, standard input, standard output, report, token. `tell` is closed when all is done; what could not be
        done is written there, and the program is not run.
        """
        try:
            job_fd, stdin_fd, stdout_fd, report_fd, token_fd = fds
            os.setsid()
            for source, target in ((stdin_fd, 0), (stdout_fd, 1), (os.open(os.devnull, os.O_WRONLY), 2)):
                os.dup2(source, target)
            job = program.read_job(job_fd)
            _close_all_but(2, report_fd, token_fd, tell)
            os.sched_setaffinity(0, {order.cpu})
            _be_the_first_to_go()
            if self._filter:
                _own_view(scratch, order)
            os.chdir(scratch)
            _limit(order, self._base_bytes)
            if self._filter:
                kernel.renounce_privileges()
                self._filter.install()
        except Exception as error:
            os.write(tell, f"{type(error).__name__}: {error}".encode())
            os._exit(1)
        os.close(tell)
        program.run(job, report_fd, token_fd)


def _close_all_but(*kept: int) -> None:
    """Close every file above the first and beside the others."""
    bounds = sorted(kept)
    for low, high in zip(bounds, [*bounds[1:], 1 << 20], strict=True):
        os.closerange(low + 1, high)


def _be_the_first_to_go() -> None:
    """If the machine runs out of memory."""
    file = os.open("/proc/self/oom_score_adj", os.O_WRONLY)
    os.write(file, b"1000")
    os.close(file)


def _own_view(scratch: str, order: Order) -> None:
    """A scratch folder in memory, which goes with the attempt, and a /proc which shows nobody else."""
    safe = kernel.NOSUID | kernel.NODEV
    kernel.unshare(kernel.NEWNS | kernel.NEWIPC)
    kernel.mount("tmpfs", scratch, "tmpfs", safe, f"mode=700,size={order.file_bytes},nr_inodes={_NUM_INODES}")
    kernel.mount(scratch, "/dev/shm", flags=kernel.BIND)
    kernel.mount("proc", "/proc", "proc", safe | kernel.NOEXEC | kernel.RDONLY)


def _limit(order: Order, base_bytes: int) -> None:
    """Limits of each process; those of all together are the warden's."""
    limits = {
        resource.RLIMIT_AS: base_bytes + order.memory_bytes,
        resource.RLIMIT_NPROC: order.num_processes + 2,  # the template and its waiting parent are counted too
        resource.RLIMIT_FSIZE: order.file_bytes,
        resource.RLIMIT_NOFILE: _NUM_FILES,
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_MEMLOCK: 0,
        resource.RLIMIT_MSGQUEUE: 0,
        resource.RLIMIT_STACK: _STACK_BYTES,
    }
    for kind, value in limits.items():
        hard = resource.getrlimit(kind)[1]
        value = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(kind, (value, value))
