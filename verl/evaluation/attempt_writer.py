"""Writes a log of attempts, also one that an earlier process began.

A step's attempts go to the file together, in one write, so a kill leaves whole lines and at most one that is cut, which
the next process removes. A run that is resumed asks how far each question has come (`num_attempts`, `is_solved`); one
that goes back to a checkpoint first drops what came after it (`keep`).
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from types import TracebackType

from verl.config.secrets import hide_known
from verl.evaluation.attempts import Attempt, Header, check_method, read_attempts
from verl.types import InputError


class AttemptWriter:
    """Appends attempts to a log. Use as a context manager.

    Args:
        path: the file; its folder is made.
        header: written if the log is new.

    Raises:
        InputError: the file is no log, or one of another method.
    """

    def __init__(self, path: str | os.PathLike[str], header: Header) -> None:
        self.path = Path(path)
        self.header = header
        self._counts: dict[tuple[str, int], int] = {}
        self._solved: set[tuple[str, int]] = set()
        self.path.parent.mkdir(parents=True, exist_ok=True)
        if self.path.exists() and self.path.stat().st_size:
            self._continue()
        self._file = self.path.open("ab")
        if not self.path.stat().st_size:
            check_method(header.method, self.path)
            self._write([_header_line(header)])

    def __enter__(self) -> AttemptWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._file.close()

    def num_attempts(self, question_id: str, seed: int) -> int:
        """Attempts that are in the log already."""
        return self._counts.get((question_id, seed), 0)

    def is_solved(self, question_id: str, seed: int) -> bool:
        """Whether one of them was right."""
        return (question_id, seed) in self._solved

    def append(self, attempts: Sequence[Attempt]) -> None:
        """Write attempts, together; they are with the operating system when this returns.

        Raises ValueError when a number is not the next one of its question and seed, or when a reward is not finite.
        """
        counts, solved, lines = dict(self._counts), set(self._solved), []
        for attempt in attempts:
            expected = counts.get(attempt.run, 0) + 1
            if attempt.attempt != expected:
                raise ValueError(f"Attempt {attempt.attempt} at {attempt.run} is not the next one, {expected}.")
            counts[attempt.run] = expected
            if attempt.solved:
                solved.add(attempt.run)
            lines.append(_attempt_line(attempt))
        self._write(lines)
        self._counts, self._solved = counts, solved

    def keep(self, condition: Callable[[Attempt], bool]) -> None:
        """Drop the other attempts: those after the checkpoint that a run resumes from are made once more.

        Of each question and seed the attempts that stay must be the first ones.
        """
        kept = [attempt for attempt in read_attempts(self.path).attempts if condition(attempt)]
        self._file.close()
        temporary = self.path.with_name(f".{self.path.name}.tmp")
        temporary.unlink(missing_ok=True)
        with AttemptWriter(temporary, self.header) as new:
            new.append(kept)
        os.replace(temporary, self.path)
        self._counts, self._solved = new._counts, new._solved
        self._file = self.path.open("ab")

    def _continue(self) -> None:
        """Take over what the log holds, and cut off a line that is not whole."""
        if b"\n" not in self.path.read_bytes():  # killed while it wrote the header
            os.truncate(self.path, 0)
            return
        log = read_attempts(self.path)
        for key in ("method", "stops_when_solved"):
            old, new = getattr(log.header, key), getattr(self.header, key)
            if old != new:
                raise InputError(
                    f"{self.path} is a log with {key}={old}, and this run has {key}={new}: choose another file, or"
                    " remove this one."
                )
        os.truncate(self.path, log.num_bytes)
        self.header = log.header
        for attempt in log.attempts:
            self._counts[attempt.run] = attempt.attempt
            if attempt.solved:
                self._solved.add(attempt.run)

    def _write(self, lines: Iterable[str]) -> None:
        self._file.write("".join(lines).encode("utf-8"))
        self._file.flush()


def _header_line(header: Header) -> str:
    fields = {"run_name": header.run_name, "method": header.method, "stops_when_solved": header.stops_when_solved}
    return (
        json.dumps({"config": dict(header.config), **header.extras, **fields}, ensure_ascii=False, default=str) + "\n"
    )


def _attempt_line(attempt: Attempt) -> str:
    named = {
        "question_id": attempt.question_id,
        "seed": attempt.seed,
        "attempt": attempt.attempt,
        "reward": attempt.reward,
        "solved": attempt.solved,
        "timestamp": attempt.timestamp,
    }
    told = hide_known()(dict(attempt.extras))  # feedback and errors of scorers
    return json.dumps({**told, **named}, ensure_ascii=False, allow_nan=False) + "\n"
