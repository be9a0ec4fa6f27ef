"""Runs a model's program, in a process that is already shut in, and writes down how it went.

The report is a pipe of JSON lines: `debug` texts, then `value` (functional mode), `token` (code mode) or `error`. The
program can write there too. That wins it nothing where only the grader knows the right value; for tests that are code,
see `_run_tests`.
"""

from __future__ import annotations

import atexit
import builtins
import json
import os
import site
import sys
import threading
import types
import typing
from collections.abc import Callable
from typing import Any, NoReturn

_FILE = "Solution.py"
_NUM_FRAMES = 3
_MESSAGE_CHARS, _DEBUG_CHARS, _NUM_DEBUG = 4000, 4000, 100


_TYPING = {name: getattr(typing, name) for name in typing.__all__}


def read_job(fd: int) -> dict[str, Any]:
    """The whole of an open file, from its start, as JSON."""
    return json.loads(os.pread(fd, os.fstat(fd).st_size, 0))


def prepare() -> None:
    """What all programs share, done once before the forks; no trace of this package is left in `sys.modules`."""
    site.setquit()
    for name in [name for name in sys.modules if name.partition(".")[0] in ("inside", "runpy")]:
        del sys.modules[name]


def run(job: dict[str, Any], report_fd: int, token_fd: int) -> NoReturn:
    """Save, compile and run `job["source"]`, then end this process: status 0, or what the program asked for, or 1."""
    report = _Reporter(report_fd)
    path = os.path.join(os.getcwd(), _FILE)
    sys.argv = [path]
    sys.path.insert(0, os.path.dirname(path))
    builtins.debug_print = report.debug  # pyright: ignore[reportAttributeAccessIssue]
    module = types.ModuleType("__main__" if job["mode"] == "stdin" else "Solution")
    names = vars(module)
    names.update(_TYPING, __file__=path)
    sys.modules["__main__"] = sys.modules[module.__name__] = module
    good_builtins = dict(vars(builtins)) if job["mode"] == "code" else {}
    status, finish = 0, _finish_program
    try:
        with open(path, "w", encoding="utf-8", errors="surrogatepass") as file:
            file.write(job["source"])
        try:
            exec(compile(job["source"], path, "exec", dont_inherit=True), names)
        except SystemExit as end:
            status = _exit_status(end)
            if status:
                raise
        if job["mode"] == "functional":
            finish = _flush
            report.write({"value": _call(job, names)})
        elif job["mode"] == "code":
            finish = _flush
            _run_tests(job["test_code"], names, good_builtins, token_fd, report)
    except BaseException as error:
        status = _exit_status(error) if isinstance(error, SystemExit) else 1
        report.error(error, path)
        status = status or 1
    try:
        finish()
    except BaseException as error:
        report.error(error, path)
        status = status or 1
    os._exit(status)


def _call(job: dict[str, Any], names: dict[str, Any]) -> Any:
    """The value of the function for the arguments; `class Solution` is asked before the top level."""
    name, arguments = job["function"], job["arguments"]
    owner = names.get("Solution")
    if isinstance(owner, type) and hasattr(owner, name):
        function = getattr(owner(), name)
    elif name in names:
        function = names[name]
    else:
        raise NameError(f"function {name!r} is not defined")
    if isinstance(arguments, dict):
        return function(**arguments)
    return function(*arguments)


def _run_tests(
    tests: str, names: dict[str, Any], good_builtins: dict[str, Any], token_fd: int, report: _Reporter
) -> None:
    """Run test code after the program, in the same names, and show that its end was reached.

    The token that shows it waits unread in a pipe until then, so ending early, printing, or any object found in memory
    does not yield it. Program and tests are one process all the same: a program which looks for that pipe can read it,
    and one whose values claim to be equal to everything passes.
    """
    # What a program most easily bends, and may have bent before the tests begin.
    builtins.__dict__.update(good_builtins)
    sys.settrace(None)
    sys.setprofile(None)
    names["__name__"] = "__main__"
    exec(compile(tests, "tests.py", "exec", dont_inherit=True), names)
    report.write({"token": os.read(token_fd, 256).decode()})


def _finish_program() -> None:
    """The end of an interpreter: threads are waited for, exit functions run, output written."""
    threading._shutdown()  # pyright: ignore[reportAttributeAccessIssue]
    atexit._run_exitfuncs()
    _flush()


def _flush() -> None:
    sys.stdout.flush()


def _exit_status(end: SystemExit) -> int:
    if end.code is None:
        return 0
    return int(end.code) & 0xFF if isinstance(end.code, int) else 1


class _Reporter:
    """Writes the report."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._num_debug = 0

    def write(self, record: dict[str, Any]) -> None:
        line = json.dumps(record, default=_plain).encode() + b"\n"
        while line:
            line = line[os.write(self._fd, line) :]

    def debug(self, *values: object, sep: str | None = " ", **_: Any) -> None:
        """`debug_print`: like `print`, but beside the output; the first 100 times."""
        self._num_debug += 1
        if self._num_debug > _NUM_DEBUG:
            return
        text = (" " if sep is None else sep).join(map(str, values))
        self.write({"debug": text[:_DEBUG_CHARS]})

    def error(self, error: BaseException, path: str) -> None:
        """Type, message and the program's own frames of what ended it."""
        try:
            message = str(error)
        except BaseException:
            message = ""
        if isinstance(error, SystemExit):
            message = f"exit status {_exit_status(error)}" if isinstance(error.code, int | None) else message
        frames = _frames(error, path)
        self.write({"error": {"type": type(error).__name__, "message": message[:_MESSAGE_CHARS], "frames": frames}})


def _frames(error: BaseException, path: str) -> list[tuple[int, str]]:
    frames: list[tuple[int, str]] = []
    step = error.__traceback__
    while step:
        if step.tb_frame.f_code.co_filename == path:
            frames.append((step.tb_lineno, step.tb_frame.f_code.co_name))
        step = step.tb_next
    if isinstance(error, SyntaxError) and error.filename == path:
        frames.append((error.lineno or 0, "<module>"))
    return frames[-_NUM_FRAMES:]


def _plain(value: Any) -> Any:
    """Arrays and numbers of numpy and other list-like things, as JSON."""
    convert: Callable[[], Any] | None = getattr(value, "tolist", None)
    if convert is not None:
        return convert()
    if isinstance(value, set | frozenset | dict) or not hasattr(value, "__iter__"):
        raise TypeError(f"a value of type {type(value).__name__} has no JSON form")
    return list(value)
