"""One warm worker: the grader's end of a `inside.template` process, which runs one attempt at a time.

Programs, inputs and outputs go directly between the grader and the attempt, through files and pipes handed over the
control socket; the worker process sees limits and endings only.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import secrets
import select
import signal
import socket
import subprocess
import tempfile
import time
from io import FileIO
from typing import Any

from verl.sandbox.isolation import Kind, start
from verl.sandbox.job import Ending, Job, Outcome, outcome

_START_SECONDS = 60.0
_GRACE_SECONDS = 60.0
"""How much longer than its attempt a worker may be silent; a busy machine is no reason to kill it."""
_CHUNK = 1 << 16
_REPORT_EXTRA = 1 << 20  # for debug texts, beside the value


class SandboxError(RuntimeError):
    """The sandbox itself could not do its work; says nothing about the program."""


class WorkerLost(SandboxError):
    """The worker process died or fell silent during an attempt."""


class Worker:
    """Starts a worker process.

    Args:
        kind: the walls.
        cpu: the core its attempts are bound to.

    Raises SandboxError with the reason when the walls cannot be put up.
    """

    def __init__(self, kind: Kind, cpu: int) -> None:
        self._cpu = cpu
        self._control, inner = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with inner, tempfile.TemporaryFile() as errors:
            plan = start(kind, inner.fileno())
            try:
                self._process = subprocess.Popen(
                    plan.command,
                    env=plan.environment,
                    cwd="/",
                    pass_fds=[inner.fileno()],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=errors,
                    start_new_session=True,
                )
            except OSError as error:
                raise SandboxError(f"{kind}: {error}") from error
            inner.close()
            try:
                answer = self._receive(_START_SECONDS)
            except WorkerLost:
                errors.seek(0)
                lines = errors.read().decode(errors="replace").strip().splitlines()
                answer = {"failed": lines[-1] if lines else "it ended without a word"}
        if "failed" in answer:
            self.close()
            raise SandboxError(f"{kind}: {answer['failed']}")

    def run(self, job: Job) -> Outcome:
        """Run a program and wait for its end, and that of all it started.

        Raises WorkerLost or SandboxError; the worker is then of no more use.
        """
        token = secrets.token_hex(16)
        with contextlib.ExitStack() as stack:
            stdout, stdout_end = _pipe(stack)
            report, report_end = _pipe(stack)
            token_end, token_source = _pipe(stack)
            token_source.write(token.encode())
            theirs = [
                _sealed_file(stack, job.encode()),
                _sealed_file(stack, job.stdin.encode(errors="surrogatepass")),
                stdout_end,
                report_end,
                token_end,
            ]
            self._send(self._order(job), [file.fileno() for file in theirs])
            for file in (*theirs, token_source):
                file.close()
            output, records, ending = self._follow(job, stdout.fileno(), report.fileno())
        return outcome(job, ending, bytes(output), bytes(records), token)

    def close(self) -> None:
        """Kill the worker and everything in it."""
        self._control.close()
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def _order(self, job: Job) -> dict[str, Any]:
        limits = job.limits
        return {
            "wall_seconds": limits.wall_seconds,
            "cpu_seconds": limits.cpu_seconds,
            "memory_bytes": limits.memory_bytes,
            "num_processes": limits.num_processes,
            "file_bytes": limits.file_bytes,
            "cpu": self._cpu,
        }

    def _follow(self, job: Job, stdout: int, report: int) -> tuple[bytearray, bytearray, Ending]:
        """Read what the program writes until the worker says that it has ended."""
        taken = {stdout: bytearray(), report: bytearray()}
        most = {stdout: job.limits.output_bytes, report: job.limits.output_bytes + _REPORT_EXTRA}
        deadline = time.monotonic() + job.limits.wall_seconds + _GRACE_SECONDS
        poll = select.poll()
        for fd in (stdout, report, self._control.fileno()):
            poll.register(fd, select.POLLIN)
        answer: dict[str, Any] | None = None
        open_pipes = {stdout, report}
        while answer is None or open_pipes:
            ready = poll.poll(max(0.0, deadline - time.monotonic()) * 1000)
            if not ready:
                raise WorkerLost("a sandbox worker has not answered in time")
            for fd, _ in ready:
                if fd not in taken:
                    answer = self._receive(1.0)
                    poll.unregister(fd)
                elif chunk := os.read(fd, _CHUNK):
                    if len(taken[fd]) > most[fd]:
                        continue  # being killed; what still comes is thrown away
                    taken[fd] += chunk
                    if len(taken[fd]) > most[fd] and answer is None:
                        self._send({"kill": True})
                else:
                    poll.unregister(fd)
                    open_pipes.discard(fd)
        if "failed" in answer:
            raise SandboxError(f"an attempt could not be shut in: {answer['failed']}")
        reason = "output" if any(len(taken[fd]) > most[fd] for fd in taken) else answer["reason"]
        return taken[stdout], taken[report], Ending(answer["ended"], reason, answer["wall"])

    def _send(self, message: dict[str, Any], fds: list[int] | None = None) -> None:
        try:
            socket.send_fds(self._control, [json.dumps(message).encode()], fds or [])
        except OSError as error:
            raise WorkerLost(f"a sandbox worker has died ({error})") from error

    def _receive(self, seconds: float) -> dict[str, Any]:
        self._control.settimeout(seconds)
        try:
            message = self._control.recv(_CHUNK)
        except OSError as error:
            raise WorkerLost(f"a sandbox worker does not answer ({error})") from error
        finally:
            self._control.settimeout(None)
        if not message:
            raise WorkerLost("a sandbox worker has died")
        return json.loads(message)


def _pipe(stack: contextlib.ExitStack) -> tuple[FileIO, FileIO]:
    """The reading and the writing end."""
    read, write = os.pipe()
    return stack.enter_context(FileIO(read, "r")), stack.enter_context(FileIO(write, "w"))


def _sealed_file(stack: contextlib.ExitStack, content: bytes) -> FileIO:
    """A file in memory which whoever gets it can only read."""
    fd = os.memfd_create("sandbox", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    file = stack.enter_context(FileIO(fd, "r+"))
    view = memoryview(content)
    while view:
        view = view[file.write(view) :]
    file.seek(0)
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_WRITE | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_SEAL)
    return file
