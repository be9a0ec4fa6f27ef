"""Looks whether a run still moves, says where everyone stands when it does not, and ends it when that stays so.

A sign of life is a result or an item from any worker, or a new phase of the driver. Without one for a period, a report
with the stacks of every process is printed and kept in a file; after a second period there is another report (what has
not changed between the two is what hangs), and the workers are ended, which frees a driver that waits for them. One
that does not come free then hangs in its own code, such as a tracker's network call: its process ends, and its workers
with it.

A run that stands still has a cause, and the watchdog may meet the same one: a full or hanging disk, a Ray that does not
answer. So the report goes to the log first, and whatever may fail or hang is done in a thread of its own, which gets a
limited time (`_attempt`).

The limits of single calls (`trainer.timeout`) are stricter and name the culprit; this is for what has none.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from threading import Event, Thread
from typing import TypeVar

from verl.single_controller import Standing, WorkerGroup
from verl.single_controller.processes import own_stacks
from verl.trainer.phases import Phases

logger = logging.getLogger(__name__)

FREE_SECONDS = 60.0
"""What a driver gets to come free when its workers have been ended."""
ASK_SECONDS = 300.0
"""What the workers of a role get to say where they stand; machines that do not answer have their own, shorter limit."""
WRITE_SECONDS = 30.0
"""What a small file may take."""
KEY = "trainer.watchdog_seconds"

UNKNOWN = "where it stands could not be found out"

T = TypeVar("T")
Standings = dict[str, list[Standing] | None]
"""Where the ranks are, by role; None for one that could not be asked."""


class Stalled(RuntimeError):
    """Nothing moved any more, and the workers have been ended."""


@contextmanager
def watchdog(
    period: float | None,
    groups: Sequence[WorkerGroup],
    phases: Phases,
    folder: Path,
    give_up: Callable[[Stalled], None] | None = None,
) -> Iterator[None]:
    """Watch what happens inside the block, from a thread.

    Args:
        period: seconds without a sign of life until the first report (`trainer.watchdog_seconds`); None: no watching.
        groups: the workers of the run.
        phases: of the driver.
        folder: for `stall-<n>.txt`, where that can be written.
        give_up: called before the process is ended because the driver itself hangs.

    Raises:
        Stalled: in place of what the driver met when its workers had been ended.
    """
    if period is None:
        yield
        return
    dog = _Watchdog(period, groups, phases, folder, give_up or (lambda stalled: None))
    dog.start()
    try:
        yield
    except Exception as error:
        if dog.stalled is None:
            raise
        raise dog.stalled from error
    finally:
        dog.stop()


class _Watchdog(Thread):
    """The thread of `watchdog`."""

    def __init__(
        self,
        period: float,
        groups: Sequence[WorkerGroup],
        phases: Phases,
        folder: Path,
        give_up: Callable[[Stalled], None],
    ) -> None:
        super().__init__(name="watchdog", daemon=True)
        self.period, self.groups, self.phases, self.folder = period, groups, phases, folder
        self.stalled: Stalled | None = None
        self._give_up = give_up
        self._is_over = Event()

    def stop(self) -> None:
        self._is_over.set()
        self.join(FREE_SECONDS)  # it may be asking a Ray that hangs

    def run(self) -> None:
        seen, since, num_reports = self._signs(), time.monotonic(), 0
        while not self._is_over.wait(min(self.period / 10, 5.0)):
            if (now := self._signs()) != seen:
                seen, since, num_reports = now, time.monotonic(), 0
            seconds = time.monotonic() - since
            if seconds < self.period * (num_reports + 1):
                continue
            num_reports += 1
            where, standing = self._report(seconds)
            if num_reports == 2:
                self._end(seconds, where, standing)
                return

    def _signs(self) -> tuple[int, ...]:
        return (self.phases.num_moves, *(group.num_arrived for group in self.groups))

    def _report(self, seconds: float) -> tuple[str, Standings]:
        """Say where everyone stands; returns where that can be read, and the ranks by role."""
        standings = {
            group.role: _attempt(f"asking the {group.role} workers", ASK_SECONDS, group.standing)
            for group in self.groups
        }
        stacks = _attempt("the driver's stacks", WRITE_SECONDS, own_stacks)  # read from source files
        text = report(seconds, self.phases, standings, stacks or UNKNOWN)
        logger.warning("%s\nAfter %g s without progress the run is ended.", text, 2 * self.period)
        path = _attempt(f"writing the report to {self.folder}", WRITE_SECONDS, partial(self._write, text))
        return str(path or "the driver's log"), standings

    def _write(self, text: str) -> Path:
        """Keep a report in the next free file."""
        self.folder.mkdir(parents=True, exist_ok=True)
        number = 1 + len(list(self.folder.glob("stall-*.txt")))
        path = self.folder / f"stall-{number}.txt"
        path.write_text(text + "\n", encoding="utf-8")
        logger.warning("This report is also in %s.", path)
        return path

    def _end(self, seconds: float, where: str, standings: Standings) -> None:
        known = {role: ranks for role, ranks in standings.items() if ranks is not None}
        silent = [f"{role} {each}" for role, ranks in known.items() for each in ranks if not each.report.can_answer]
        silent += [f"{role}: {UNKNOWN}" for role in standings.keys() - known.keys()]
        self.stalled = Stalled(
            f"Nothing has moved for {seconds:.0f} s (twice {KEY}={self.period:g}) in phase {self.phases}."
            f" {'; '.join(silent) or 'All processes are alive'}. Where each of them stands: {where}"
        )
        for group in self.groups:  # each in its thread: Ray itself may hang
            Thread(target=group.abort, args=(self.stalled,), daemon=True).start()
        if not self._is_over.wait(FREE_SECONDS):
            logger.error("%s The driver itself hangs: its process ends now.", self.stalled)
            _attempt("noting why the run ends", WRITE_SECONDS, partial(self._give_up, self.stalled))
            os._exit(1)


def _attempt(what: str, seconds: float, action: Callable[[], T]) -> T | None:
    """What the action returns; None, with a line in the log, if it fails or is not done in time."""
    done: list[T] = []
    errors: list[Exception] = []

    def run() -> None:
        try:
            done.append(action())
        except Exception as error:
            errors.append(error)

    thread = Thread(target=run, name=f"watchdog: {what}", daemon=True)
    thread.start()
    thread.join(seconds)
    if done:
        return done[0]
    logger.error("The watchdog goes on without %s: %r", what, errors[0] if errors else f"not done within {seconds:g} s")
    return None


def report(seconds: float, phases: Phases, standings: Standings, stacks: str) -> str:
    """Where everyone stands: the driver's phase, every rank's state and stacks, the driver's `stacks`."""
    parts = [f"Nothing has moved for {seconds:.0f} s. The driver is in phase: {phases}."]
    for role, ranks in standings.items():
        parts += [f"{role}: {UNKNOWN}"] if ranks is None else [f"{role} {each}" for each in ranks]
    return "\n\n".join([*parts, f"The driver, process {os.getpid()}:\n{stacks}"])
