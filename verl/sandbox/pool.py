"""The sandbox that graders use: a bounded number of warm workers, each replaced when it dies."""

from __future__ import annotations

import os
import queue
import sys
import threading
import warnings
import weakref
from collections.abc import Sequence

from verl.config.sandbox import SandboxConfig
from verl.sandbox.isolation import Kind
from verl.sandbox.job import ErrorReport, Job, Limits, Outcome
from verl.sandbox.worker import SandboxError, Worker, WorkerLost

INSTALL = (
    "Install bubblewrap (Debian, Ubuntu: apt-get install bubblewrap; Fedora: dnf install bubblewrap) and allow "
    "namespaces where a container or the kernel forbids them (Docker: --privileged; Ubuntu 24.04: sysctl "
    "kernel.apparmor_restrict_unprivileged_userns=0). To run the programs of a model without isolation, at your own "
    "risk, set sandbox.allow_unisolated=true."
)
UNISOLATED = (
    "sandbox.allow_unisolated=true and no isolation is available: programs written by the model run as this user, with "
    "limits on time, memory and output only. They can read and change this user's files, see and signal its processes, "
    "reach the network, and find expected outputs that lie in files; nothing protects this run from them."
)
_TRIAL = Job(
    "import threading\nt = threading.Thread(target=print, args=('ok',))\nt.start()\nt.join()",
    "stdin",
    Limits(wall_seconds=30.0),
)
"""With a thread, because older kernels count the processes of other sandboxes against the limit."""


class Sandbox:
    """Runs programs shut in. Can be used from many threads.

    Args:
        config: limits are taken from each job, the rest from here.
        kinds: walls to try, best first; the default is all that are safe, and none at all if the configuration says so.

    Raises SandboxError, with what to install, when no walls can be put up.
    """

    def __init__(self, config: SandboxConfig, kinds: Sequence[Kind] = ("bubblewrap", "namespaces")) -> None:
        cores = sorted(os.sched_getaffinity(0))
        self.num_workers = config.num_workers or len(cores)
        self._slots: queue.LifoQueue[_Slot] = queue.LifoQueue()
        # Sandboxes of different processes should not all crowd the first cores.
        slots = [_Slot(cores[(os.getpid() + index) % len(cores)]) for index in range(self.num_workers)]
        self._close = weakref.finalize(self, _close, slots, os.getpid())
        self.kind: Kind = self._choose(slots[0], [*kinds, "none"] if config.allow_unisolated else kinds)
        for slot in reversed(slots):
            self._slots.put(slot)

    def run(self, job: Job) -> Outcome:
        """Run a program; waits for a free worker first.

        Raises SandboxError if the program could not be shut in. Nothing the program does raises: one that takes the
        worker with it, twice, has gone over a limit.
        """
        slot = self._slots.get()
        try:
            for _ in range(2):
                try:
                    return self._worker(slot).run(job)
                except WorkerLost as error:
                    lost = error
                    slot.stop()
                except BaseException:
                    slot.stop()  # its state is unknown
                    raise
            return Outcome("limit", error=ErrorReport("SandboxLost", str(lost)))
        finally:
            self._slots.put(slot)

    def close(self) -> None:
        """End all workers. Also happens when the object or the process ends."""
        self._close()

    def _worker(self, slot: _Slot) -> Worker:
        if slot.worker is None:
            slot.worker = Worker(self.kind, slot.cpu)
        return slot.worker

    def _choose(self, slot: _Slot, kinds: Sequence[Kind]) -> Kind:
        """The first kind of walls between which a program runs; its worker stays."""
        problems: list[str] = []
        for kind in kinds:
            try:
                slot.worker = Worker(kind, slot.cpu)
                trial = slot.worker.run(_TRIAL)
                if trial.stdout == "ok\n":
                    if kind == "none":
                        warnings.warn(UNISOLATED, stacklevel=3)
                    return kind
                problems.append(f"{kind}: a trial program failed ({trial})")
            except SandboxError as error:
                problems.append(str(error))
            slot.stop()
        self.close()
        raise SandboxError(f"Programs cannot be isolated on this machine ({'; '.join(problems)}). {INSTALL}")


def isolation_problem(config: SandboxConfig) -> str | None:
    """Why programs could not be graded on this machine, and what to install; None if they can."""
    if sys.platform != "linux":
        return "Programs can only be graded on Linux, whose namespaces isolate them."
    try:
        Sandbox(config).close()
    except SandboxError as error:
        return str(error)
    return None


class _Slot:
    """A place for one worker, and the core its attempts are bound to."""

    def __init__(self, cpu: int) -> None:
        self.cpu = cpu
        self.worker: Worker | None = None
        self._lock = threading.Lock()

    def stop(self) -> None:
        with self._lock:
            if self.worker is not None:
                self.worker.close()
                self.worker = None


def _close(slots: list[_Slot], owner: int) -> None:
    if os.getpid() == owner:  # not in a process forked from it
        for slot in slots:
            slot.stop()
