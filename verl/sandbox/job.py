"""What the sandbox is asked and what it answers. Expected outputs are no part of it: only the grader compares."""

from __future__ import annotations

import json
import signal
from dataclasses import dataclass, field
from typing import Any, Literal

from verl.config.sandbox import SandboxConfig

_MAX_RECORDS = 1000
"""Lines of a report that are read; the program's own are fewer (`inside.program`)."""


@dataclass(frozen=True)
class Limits:
    """What one attempt may use. Its time begins when its own process does, so other attempts cost it none."""

    wall_seconds: float
    cpu_seconds: float | None = None
    """CPU time of all its processes together; None: as much as fits into `wall_seconds`."""
    memory_bytes: int = SandboxConfig.memory_bytes
    num_processes: int = SandboxConfig.max_processes
    """Processes and threads."""
    output_bytes: int = SandboxConfig.max_output_bytes
    """Standard output, and, counted apart, the reported value."""
    file_bytes: int = SandboxConfig.max_file_bytes
    """The scratch folder."""

    @classmethod
    def of(cls, config: SandboxConfig, wall_seconds: float, cpu_seconds: float | None = None) -> Limits:
        """The configured limits, with the times of one test."""
        return cls(
            wall_seconds=wall_seconds,
            cpu_seconds=cpu_seconds,
            memory_bytes=config.memory_bytes,
            num_processes=config.max_processes,
            output_bytes=config.max_output_bytes,
            file_bytes=config.max_file_bytes,
        )


@dataclass(frozen=True)
class Job:
    """One run of a program.

    `stdin`: it runs as `__main__`, reads `stdin` and prints. `functional`: after it, `function` (top-level, or a method
    of its `class Solution`) is called with `arguments`. `code`: after it, `test_code` runs in the same names, and no
    exception means that the tests passed.
    """

    source: str
    """The program, saved as Solution.py."""
    mode: Literal["stdin", "functional", "code"]
    limits: Limits
    stdin: str = ""
    function: str = ""
    arguments: list[Any] | dict[str, Any] = field(default_factory=list)
    """JSON values, by position or by keyword."""
    test_code: str = ""

    def encode(self) -> bytes:
        """What the process that runs it reads (its input comes as a file of its own)."""
        names = ("source", "mode", "function", "arguments", "test_code")
        return json.dumps({name: getattr(self, name) for name in names}).encode()


@dataclass(frozen=True)
class ErrorReport:
    """What ended a program."""

    type: str
    message: str
    frames: list[tuple[int, str]] = field(default_factory=list)
    """(line, function) within Solution.py, lines counted from 1, outermost first, the last 3 at most."""


@dataclass(frozen=True)
class Outcome:
    """How a run ended. Everything but `status`, and that of code mode, is what the program chose to show."""

    status: Literal["ok", "error", "timeout", "limit"]
    """`limit`: it was ended for its memory, its output or its number of processes."""
    stdout: str = ""
    value: Any = None
    """Functional mode: what the function returned, as a JSON value."""
    error: ErrorReport | None = None
    debug: list[str] = field(default_factory=list)
    """Texts of `debug_print`."""
    wall_seconds: float = 0.0


@dataclass(frozen=True)
class Ending:
    """How the process ended, as seen from outside."""

    exit_status: int
    """Negative: the signal that ended it."""
    reason: Literal["time", "memory", "output", "processes"] | None
    """The limit for which it was ended."""
    wall_seconds: float


def outcome(job: Job, ending: Ending, stdout: bytes, report: bytes, token: str) -> Outcome:
    """Judge a run. `stdout` and `report` are the program's to write and may be anything."""
    text = stdout[: job.limits.output_bytes].decode(errors="replace")
    records = [record for line in report.split(b"\n", _MAX_RECORDS)[:_MAX_RECORDS] if (record := _record(line))]
    debug = [record["debug"] for record in records if isinstance(record.get("debug"), str)]
    values = [record["value"] for record in records if "value" in record]

    def result(status: Literal["ok", "error", "timeout", "limit"], error: ErrorReport | None = None) -> Outcome:
        value = values[-1] if values and status == "ok" else None
        return Outcome(status, text, value, error, debug, ending.wall_seconds)

    if ending.reason == "time":
        return result("timeout")
    if ending.reason:
        return result("limit", _passed_limit(ending.reason, job.limits))
    errors = [error for record in records if "error" in record and (error := _error(record["error"]))]
    if errors:
        return result("error", errors[-1])
    if ending.exit_status:
        return result("error", _abrupt_end(ending.exit_status))
    if job.mode == "functional" and not values:
        return result("error", ErrorReport("SystemExit", f"the program ended before {job.function} returned"))
    if job.mode == "code" and {"token": token} not in records:
        return result("error", ErrorReport("SystemExit", "the program ended before its tests did"))
    return result("ok")


def _passed_limit(reason: str, limits: Limits) -> ErrorReport:
    texts = {
        "memory": ("MemoryLimitExceeded", f"used more than {limits.memory_bytes} bytes of memory"),
        "output": ("OutputLimitExceeded", f"wrote more than {limits.output_bytes} bytes"),
        "processes": ("ProcessLimitExceeded", f"started more than {limits.num_processes} processes"),
    }
    return ErrorReport(*texts[reason])


def _abrupt_end(status: int) -> ErrorReport:
    if status > 0:
        return ErrorReport("SystemExit", f"exit status {status}")
    names = {number.value: number.name for number in signal.Signals}
    return ErrorReport("Killed", f"ended by {names.get(-status, f'signal {-status}')}")


def _record(line: bytes) -> dict[str, Any] | None:
    """One line of a report, if it is an object. Half surrogate pairs, which nobody could print, are replaced."""
    try:
        record = json.loads(line.decode(errors="replace"))
        if b"\\ud" in line.lower():
            record = json.loads(json.dumps(record, ensure_ascii=False).encode(errors="replace"))
    except (ValueError, RecursionError):
        return None
    return record if isinstance(record, dict) else None


def _error(record: Any) -> ErrorReport | None:
    match record:
        case {"type": str(kind), "message": str(message), "frames": list(frames)}:
            lines = [(frame[0], frame[1]) for frame in frames if _is_frame(frame)]
            return ErrorReport(kind, message, lines[-3:])
    return None


def _is_frame(frame: Any) -> bool:
    return isinstance(frame, list) and list(map(type, frame)) == [int, str]
