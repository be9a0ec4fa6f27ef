"""The warm process of a sandbox worker: Python and the usual libraries loaded, waiting to be forked for each attempt.

`python -m inside.template <control socket> <settings as JSON>`

It is kept blank: programs, inputs and outputs pass it by, in files and pipes handed from the grader to the fork, so
that no attempt finds in its own memory what an earlier one was given or wrote. What it is told is limits; what it tells
is how the attempt ended.

Messages (JSON, one packet each): `{"ready": true}` at the start; then a `cell.Order` comes with its four files, and
`{"ended": status, "reason": ..., "wall": s, "cpu": s}` or `{"failed": text}` goes back. `kill` ends an attempt early.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import json
import os
import shutil
import socket
import sys
import tempfile

from . import cell, kernel, program, warden

_COMMON = """abc array bisect collections copy dataclasses datetime decimal enum fractions functools heapq itertools
json math operator queue random re statistics string threading time traceback types typing sortedcontainers"""
"""Loaded once instead of in every program that asks for them. Not numpy: few ask for it, and every fork would be slower
for its pages (4.9 instead of 5.3 times the rate of fresh processes)."""
_INNER_USER = 1000


def main() -> None:
    control = socket.socket(fileno=int(sys.argv[1]))
    settings = json.loads(sys.argv[2])
    try:
        if settings["isolated"]:
            _step_down(settings["user"])
        for name in _COMMON.split():
            with contextlib.suppress(ImportError):
                importlib.import_module(name)
        template = _Template(settings["isolated"])
    except Exception as error:
        control.send(json.dumps({"failed": f"{type(error).__name__}: {error}"}).encode())
        return
    control.send(json.dumps({"ready": True}).encode())
    while True:
        message, fds, _, _ = socket.recv_fds(control, 4096, 8)
        if not message:
            return  # the grader has gone
        if fds:  # a late `kill` has none
            control.send(json.dumps(template.run(cell.Order(**json.loads(message)), fds, control)).encode())


def _step_down(user: int | None) -> None:
    """From root to `user`, who owns nothing; then into namespaces below which each attempt can be given its own."""
    if user is not None:
        _fresh_proc()  # bubblewrap covers parts of its own, and the kernel would then allow no further one
        os.setgroups([])
        os.setresgid(user, user, user)
        os.setresuid(user, user, user)
    kernel.own_user_namespace(kernel.NEWNS | kernel.NEWPID, _INNER_USER)
    child = os.fork()  # the first one in the new namespace of processes
    if child:
        os.closerange(3, 64)
        os._exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) & 0xFF)
    kernel.mount("none", "/", flags=kernel.PRIVATE | kernel.RECURSIVE)
    _fresh_proc()


def _fresh_proc() -> None:
    kernel.mount("proc", "/proc", "proc", kernel.NOSUID | kernel.NODEV | kernel.NOEXEC)


def _forget_own_code() -> None:
    """Programs, and the Python processes they start, need not find this package."""
    code = os.path.dirname(os.path.dirname(__file__))
    sys.path.remove(code)
    os.environ["PYTHONPATH"] = ":".join(path for path in os.environ["PYTHONPATH"].split(":") if path != code)


class _Template:
    def __init__(self, isolated: bool) -> None:
        self._isolated = isolated
        self._cell = cell.Cell(isolated)
        self._warden = warden.Warden(isolated)
        self._own_pids = os.open("/proc/self/ns/pid", os.O_RDONLY) if isolated else -1
        _forget_own_code()
        program.prepare()
        gc.collect()
        gc.freeze()  # the collector of an attempt leaves these objects, and their shared pages, alone

    def run(self, order: cell.Order, fds: list[int], control: socket.socket) -> dict[str, object]:
        """Fork an attempt and see it end. Nothing of it is left when this returns."""
        ready, tell = os.pipe()
        scratch = "/tmp" if self._isolated else tempfile.mkdtemp()
        if self._isolated:
            # Only the next child is to be the first of a new namespace, so this one is taken up again each time.
            kernel.setns(self._own_pids, kernel.NEWPID)
            kernel.unshare(kernel.NEWPID)
        child = os.fork()
        if not child:
            self._cell.enter(order, fds, tell, scratch)
        for fd in (tell, *fds):
            os.close(fd)
        ending = self._warden.until_end(child, order, control)
        with open(ready, "rb") as file:
            problem = file.read().decode()
        if not self._isolated:
            shutil.rmtree(scratch, ignore_errors=True)
        return {"failed": problem} if problem else ending


if __name__ == "__main__":
    main()
