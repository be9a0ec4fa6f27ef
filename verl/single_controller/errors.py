"""What went wrong in a worker, told so that the first line names the worker and the cause.

A worker's exception does not travel itself: it may not pickle, and its frames do not. `Failure` is its description,
made where it happened; `WorkerError` is what the driver raises.
"""

from __future__ import annotations

import traceback
from dataclasses import dataclass

from verl.types import InputError


class WorkerError(RuntimeError):
    """A worker raised or died. `str` begins with `<role> rank <r> on <host> failed: <ExceptionType>: <message>`.

    Attributes:
        role: name of the group, such as `actor`.
        rank: which of its workers.
        host: machine it ran on.
        cause: `<ExceptionType>: <message>` of the worker's exception.
        details: the worker's traceback, or the end of its log.
    """

    def __init__(self, role: str, rank: int, host: str, cause: str, details: str = "") -> None:
        super().__init__(role, rank, host, cause, details)  # all of them in `args`, so that it pickles
        self.role = role
        self.rank = rank
        self.host = host
        self.cause = cause
        self.details = details

    def __str__(self) -> str:
        text = f"{self.role} rank {self.rank} on {self.host} failed: {self.cause}"
        return f"{text}\n{self.details}" if self.details else text


class WorkerDied(WorkerError):
    """A worker's process ended by itself or was killed."""


class WorkerLate(WorkerError):
    """A worker did not answer in time. It may hang, or may only be slow; nobody waits for it any more."""


class DeadlineExceeded(WorkerLate):
    """A call of a whole group was not done in time. `details` tells where each rank that is awaited stands."""


@dataclass(frozen=True)
class Failure:
    """An exception in words."""

    cause: str
    details: str
    origin: WorkerError | None = None
    """Set when a worker only passes on the failure of another one that it had called: that one is the news."""

    @classmethod
    def of(cls, error: BaseException) -> Failure:
        """Describe an exception that has just been caught; the catching frame is left out of the traceback. What is
        written for people (`InputError`) comes without one."""
        if isinstance(error, InputError):
            return cls(f"InputError: {error}", "")
        frames = error.__traceback__.tb_next if error.__traceback__ else None
        lines = traceback.format_exception(type(error), error, frames)
        cause = traceback.format_exception_only(error)[0].strip()
        return cls(cause, "".join(lines).rstrip(), error if isinstance(error, WorkerError) else None)

    def as_error(self, role: str, rank: int, host: str) -> WorkerError:
        """The error that the driver raises for it."""
        return self.origin or WorkerError(role, rank, host, self.cause, self.details)
