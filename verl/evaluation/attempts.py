"""Logs of attempts at questions, one format for all methods of test-time training: JSON Lines.

The first line is a header (`Header`), every other line an attempt (`Attempt`). Whatever else an attempt's line holds
(prompt, response, step, ...) is kept as it is. A file grows by whole lines only; a last line that a killed process left
unfinished is dropped. `attempt_writer` writes them.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from verl.types import InputError

ATTEMPTS_FILE = "attempts.jsonl"
"""Name of the log in a run folder."""
METHODS = ("sdpo", "multiturn", "best_of_k")


@dataclass(frozen=True)
class Header:
    """Who made the attempts."""

    method: str
    """One of `METHODS`."""
    run_name: str
    config: Mapping[str, Any] = field(default_factory=dict)
    stops_when_solved: bool = True
    """Whether the number of attempts at a question depends on their outcomes. False says that all of them were made
    whatever came of them; only then the k of best-of-k can be any k of them (`discovery`)."""
    extras: Mapping[str, Any] = field(default_factory=dict)
    """Further keys of the line; not read back."""


@dataclass(frozen=True)
class Attempt:
    """One attempt at one question."""

    question_id: str
    seed: int
    attempt: int
    """From 1, in the order in which attempts at this question with this seed were written."""
    reward: float
    solved: bool
    timestamp: float
    """Seconds since 1970."""
    extras: Mapping[str, Any] = field(default_factory=dict)
    """All other keys of the line."""

    @property
    def run(self) -> tuple[str, int]:
        """What attempts are counted for: question and seed."""
        return self.question_id, self.seed


@dataclass(frozen=True)
class AttemptLog:
    """A file that was read."""

    path: Path
    header: Header
    attempts: list[Attempt]
    num_bytes: int
    """Of the whole lines."""


def read_attempts(path: str | os.PathLike[str]) -> AttemptLog:
    """Read a log, or the one in a run folder.

    Raises InputError, with file and line, when there is none or when a line is not as the format says.
    """
    path = Path(path)
    path = path / ATTEMPTS_FILE if path.is_dir() else path
    if not path.is_file():
        raise InputError(
            f"{path}: there is no such file; name a log of attempts, or a run folder with {ATTEMPTS_FILE}."
        )
    content = path.read_bytes()
    num_bytes = content.rfind(b"\n") + 1
    try:
        lines = content[:num_bytes].decode("utf-8").split("\n")[:-1]
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not text in UTF-8 ({error}): it is no log of attempts.") from error
    if not lines:
        raise InputError(f"{path} is empty: a log of attempts begins with a header line.")
    header = _header(_object(path, 1, lines[0]), path)
    attempts: list[Attempt] = []
    counts: dict[tuple[str, int], int] = {}
    for number, line in enumerate(lines[1:], start=2):
        attempt = _attempt(_object(path, number, line), f"{path}, line {number}")
        expected = counts.get(attempt.run, 0) + 1
        if attempt.attempt != expected:
            raise InputError(
                f"{path}, line {number}: attempt={attempt.attempt} at question {attempt.question_id} with seed"
                f" {attempt.seed}; the next one has the number {expected}. Is a part of the file missing, or in twice?"
            )
        counts[attempt.run] = expected
        attempts.append(attempt)
    return AttemptLog(path, header, attempts, num_bytes)


def _object(path: Path, number: int, line: str) -> dict[str, Any]:
    try:
        found = json.loads(line)
    except json.JSONDecodeError as error:
        raise InputError(f"{path}, line {number} is not JSON ({error}).") from error
    if not isinstance(found, dict):
        raise InputError(f"{path}, line {number} is {type(found).__name__}, not an object {{...}}.")
    return found


def _header(values: dict[str, Any], path: Path) -> Header:
    if "method" not in values:
        raise InputError(
            f'{path}, line 1 is no header: it lacks `method`. A log begins with {{"config": {{...}}, "run_name": ...,'
            f' "method": ...}}; methods are {", ".join(METHODS)}.'
        )
    check_method(values["method"], path)
    run_name = values.get("run_name") or values.get("wandb_run_name") or path.stem
    return Header(values["method"], str(run_name), values.get("config") or {}, values.get("stops_when_solved", True))


def check_method(method: str, path: Path) -> None:
    """Raise InputError for a method that nobody knows."""
    if method not in METHODS:
        raise InputError(f"{path}: method={method} is unknown; methods are {', '.join(METHODS)}.")


def _attempt(values: dict[str, Any], where: str) -> Attempt:
    """Check and take out what every attempt has."""
    kinds: dict[str, tuple[str, Callable[[Any], bool]]] = {
        "question_id": ("text", lambda value: isinstance(value, str)),
        "seed": ("a whole number", _is_whole),
        "attempt": ("a whole number from 1", lambda value: _is_whole(value) and value >= 1),
        "reward": ("a finite number", _is_finite),
        "solved": ("true or false", lambda value: isinstance(value, bool)),
        "timestamp": ("seconds", _is_finite),
    }
    named: dict[str, Any] = {}
    for key, (kind, fits) in kinds.items():
        if key not in values:
            raise InputError(f"{where} lacks `{key}` ({kind}); every attempt has {', '.join(kinds)}.")
        if not fits(values[key]):
            raise InputError(f"{where}: {key}={values[key]!r} is not {kind}.")
        named[key] = values[key]
    return Attempt(**named, extras={key: value for key, value in values.items() if key not in kinds})


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_finite(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)
