"""When a step's responses are written: before its own update, or beside the update of the step before.

    on_policy       step k    write batch k | update with batch k                               | publish weights k
    one_step_off    step k                    update with batch k, meanwhile write batch k + 1  | publish weights k

With `one_step_off` batch k + 1 is therefore written by weights k - 1 (on_policy: by weights k). In both the engines
stand still when weights are published, so that no response is written by two versions, and what happens between steps
(validation, checkpoints) meets engines with the newest weights.

An engine that fails while it writes a batch ahead cannot be given weights k - 1 again: the trainer is changing them.
The other engines take its requests. If none is left the batch is abandoned, its prompts are drawn again when the step
begins, and that step is on policy.

The batch ahead is drawn in a thread: it spends its time waiting for engines and reward workers. It is not part of a
checkpoint; a resumed run draws the same prompts again, with the weights it resumes from.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, Protocol, TypeVar

from verl.workers.rollout_pool import EnginesNeedWeights

logger = logging.getLogger(__name__)

BatchT = TypeVar("BatchT")
BatchT_co = TypeVar("BatchT_co", covariant=True)


class Schedule(Protocol[BatchT_co]):
    """Calls of a step, in order: `take`, `begin_next`, `settle`. One `close` at the end."""

    def take(self, number: int) -> BatchT_co:
        """The batch of step `number`; waits until it is written."""
        ...

    def begin_next(self, number: int) -> None:
        """The weights will stay as they are until `settle`: the batch of step `number` may be begun."""
        ...

    def settle(self) -> None:
        """Wait until the engines stand still. Raises what went wrong in the batch that was begun.

        Nothing is raised when the engines failed it: then `take` draws it again.
        """
        ...

    def close(self) -> None:
        """Leave nothing running, also after an error elsewhere."""
        ...


class OnPolicy(Generic[BatchT]):
    """Nothing is written ahead.

    Args:
        draw: writes the batch of a step.
    """

    def __init__(self, draw: Callable[[int], BatchT]) -> None:
        self._draw = draw

    def take(self, number: int) -> BatchT:
        return self._draw(number)

    def begin_next(self, number: int) -> None:
        """Nothing."""

    def settle(self) -> None:
        """Nothing."""

    def close(self) -> None:
        """Nothing."""


class OneStepOff(Generic[BatchT]):
    """One batch ahead, in a thread.

    Args:
        draw: writes the batch of a step when it is taken: the first one, and one that could not be written ahead.
        abandon: ends what is waited for in the thread, so that it fails; called when the run ends in the middle of a
            batch.
        draw_ahead: writes a batch in the thread; raises EnginesNeedWeights when it cannot be finished.
    """

    def __init__(
        self,
        draw: Callable[[int], BatchT],
        abandon: Callable[[], None],
        draw_ahead: Callable[[int], BatchT],
    ) -> None:
        self._draw = draw
        self._draw_ahead = draw_ahead
        self._abandon = abandon
        self._thread = ThreadPoolExecutor(1, "rollout-ahead")
        self._ahead: Future[BatchT] | None = None

    def take(self, number: int) -> BatchT:
        ahead, self._ahead = self._ahead, None
        return self._draw(number) if ahead is None else ahead.result()

    def begin_next(self, number: int) -> None:
        self._ahead = self._thread.submit(self._draw_ahead, number)

    def settle(self) -> None:
        try:
            if self._ahead is not None:
                self._ahead.result()
        except EnginesNeedWeights:
            self._ahead = None
            logger.warning("No rollout engine is left to finish the batch ahead; it is written with the next weights.")

    def close(self) -> None:
        if self._ahead is not None and not self._ahead.done():
            self._abandon()
        self._thread.shutdown()
