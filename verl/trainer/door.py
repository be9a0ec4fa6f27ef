"""What the doors `main_*.py` share: parse, check, plan or run, and an exit status that says which of them failed.

Exit status 0: done; 1: the run failed; 2: the configuration is wrong, and nothing was started; 75: it was
asked to stop, saved a checkpoint, and the same command goes on from there (`verl.trainer.interrupts`); 130 or 143: it
was interrupted, by hand or by a signal (SIGTERM).
"""

from __future__ import annotations

import logging
import sys
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from verl.config import ConfigError
from verl.config.secrets import learn, learn_from_texts, redact
from verl.trainer.compose import Check, Composed, compose

ConfigT = TypeVar("ConfigT")


@dataclass(frozen=True)
class Door(Generic[ConfigT]):
    """One command."""

    cls: type[ConfigT]
    preset: str
    """The preset without `--config-name`."""
    problems: Check
    """Rules between the parts of a configuration."""
    missing_files: Check
    """What the configuration names and this machine lacks; a dry run only mentions it."""
    plan: Callable[[ConfigT, list[str]], None]
    """Print the plan (the second argument: missing files) and start nothing."""
    train: Callable[[ConfigT], Any]
    """Run; imports what is heavy when it is called."""
    advice: Check = lambda config: []
    """What is allowed but was seen to go wrong; printed as notes."""

    def open(self, argv: Sequence[str] | None = None) -> int:
        """Go through the door with a command line; returns the exit status."""
        arguments = sys.argv[1:] if argv is None else argv
        learn({key: value for key, _, value in (argument.partition("=") for argument in arguments)})
        try:
            runs = compose(self.cls, self.preset, arguments, self._check)
        except ConfigError as error:
            learn_from_texts(arguments)  # Hydra may have refused them before there was a tree to learn from
            print(f"{self.cls.__name__} cannot be made: {len(error.problems)} problem(s)", file=sys.stderr)
            print(*[redact(f"  - {problem}") for problem in error.problems], sep="\n", file=sys.stderr)
            return 2
        for run in runs:
            if status := self._start(run):
                return status
        return 0

    def _check(self, config: Any) -> list[str]:
        missing = [] if config.trainer.dry_run else self.missing_files(config)
        return self.problems(config) + missing

    def _start(self, run: Composed[ConfigT]) -> int:
        for note in [*run.notes, *self.advice(run.config)]:
            print(redact(f"note: {note}"), file=sys.stderr)
        _show_progress()
        config: Any = run.config
        if config.trainer.dry_run:
            self.plan(config, self.missing_files(config))
            return 0
        try:
            self.train(config)
        except KeyboardInterrupt as error:
            print("interrupted", file=sys.stderr)
            return getattr(error, "exit_status", 130)
        except Exception as error:
            _tell(error)
            return 1
        return 0


class _Redacting(logging.Formatter):
    """Messages without secrets."""

    def format(self, record: logging.LogRecord) -> str:
        return redact(super().format(record))


class _ToStderr(logging.Handler):
    """Writes to what standard error is when it writes; logging's own handler keeps what it was at first."""

    def emit(self, record: logging.LogRecord) -> None:
        print(self.format(record), file=sys.stderr, flush=True)


def _show_progress() -> None:
    """Let our own modules' messages through to the console, and no library's chatter."""
    logger = logging.getLogger("verl")
    if not logger.handlers:
        handler = _ToStderr()
        handler.setFormatter(_Redacting())
        logger.addHandler(handler)
        logger.setLevel(logging.INFO)


def _tell(error: Exception) -> None:
    """Our own errors are written for people and stand alone; any other comes with its traceback."""
    if type(error).__module__.startswith("verl."):
        print(redact(f"{type(error).__name__}: {error}"), file=sys.stderr)
    else:
        print(redact("".join(traceback.format_exception(error))), file=sys.stderr)
