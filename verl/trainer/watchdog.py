"""Looks whether a run still moves, says where everyone stands when it does not, and ends it when that stays so.

A sign of life is a result or an item from any worker, or a new phase of the driver. Without one for a period, a report
with the stacks of every process is printed and kept in a file; after a second period there is another report (what has
not changed between the two is what hangs), and the workers are ended, which frees a driver that waits for them. One
that does not come free then hangs in its own code, such as a tracker's network call: its process ends, and its workers
with it.

The limits of single calls (`trainer.timeout`) are stricter and name the culprit; this is for what has none.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from threading import Event, Thread

from verl.single_controller import Standing, WorkerGroup
from verl.single_controller.processes import own_stacks
from verl.trainer.phases import Phases

logger = logging.getLogger(__name__)

FREE_SECONDS = 60.0
"""What a driver gets to come free when its workers have been ended."""
KEY = "trainer.watchdog_seconds"


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
        folder: for `stall-<n>.txt`.
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
            path, standing = self._report(seconds)
            if num_reports == 2:
                self._end(seconds, path, standing)
                return

    def _signs(self) -> tuple[int, ...]:
        return (self.phases.num_moves, *(group.num_arrived for group in self.groups))

    def _report(self, seconds: float) -> tuple[Path, dict[str, list[Standing]]]:
        """Say where everyone stands; returns the file that says it too, and the ranks by role."""
        standing = {group.role: group.standing() for group in self.groups}
        text = report(seconds, self.phases, standing)
        self.folder.mkdir(parents=True, exist_ok=True)
        number = 1 + len(list(self.folder.glob("stall-*.txt")))
        path = self.folder / f"stall-{number}.txt"
        what_next = f"This report is {path}. After {2 * self.period:g} s without progress the run is ended."
        logger.warning("%s\n%s", text, what_next)
        path.write_text(text + "\n", encoding="utf-8")
        return path, standing

    def _end(self, seconds: float, path: Path, standing: dict[str, list[Standing]]) -> None:
        silent = [f"{role} {each}" for role, ranks in standing.items() for each in ranks if not each.report.can_answer]
        self.stalled = Stalled(
            f"Nothing has moved for {seconds:.0f} s (twice {KEY}={self.period:g}) in phase {self.phases}."
            f" {'; '.join(silent) or 'All processes are alive'}. Where each of them stands: {path}"
        )
        Thread(target=self._free, args=(self.stalled,), daemon=True).start()  # Ray itself may hang
        if not self._is_over.wait(FREE_SECONDS):
            logger.error("%s The driver itself hangs: its process ends now.", self.stalled)
            self._give_up(self.stalled)
            os._exit(1)

    def _free(self, stalled: Stalled) -> None:
        for group in self.groups:
            group.abort(stalled)


def report(seconds: float, phases: Phases, standing: dict[str, list[Standing]]) -> str:
    """Where everyone stands: the driver's phase, every rank's state and stacks, the driver's stacks."""
    ranks = [f"{role} {each}" for role, of_role in standing.items() for each in of_role]
    head = f"Nothing has moved for {seconds:.0f} s. The driver is in phase: {phases}."
    return "\n\n".join([head, *ranks, f"The driver, process {os.getpid()}:\n{own_stacks()}"])
