"""Words for runs that do not learn: when nothing could be taught, or nothing told good from bad, for several steps."""

from __future__ import annotations

import logging
from collections.abc import Sequence

logger = logging.getLogger(__name__)


class IdleWatch:
    """Warns after every `interval` steps in a row without a target, or with the same reward for all siblings.

    Args:
        interval: steps in a row; 0 never warns.
        tolerance: differences between rewards up to this are none.
    """

    def __init__(self, interval: int, tolerance: float) -> None:
        self.interval, self.tolerance = interval, tolerance
        self.num_idle = self.num_flat = 0

    def see(self, rewards: Sequence[Sequence[float]], threshold: float, num_taught: int) -> None:
        """One rollout batch: rewards of each group, what makes a success, and how many samples had a target."""
        self.num_idle = 0 if num_taught else self.num_idle + 1
        self.num_flat = self.num_flat + 1 if all(map(self._is_flat, rewards)) else 0
        if self._is_due(self.num_idle):
            found = sum(any(reward >= threshold for reward in group) for group in rewards)
            logger.warning(
                "SDPO: no sample had a demonstration or feedback for %d batches in a row, so nothing was learnt. Groups"
                " with a success (reward >= %g) in the last one: %d of %d. Return feedback with the rewards, lower"
                " success_reward_threshold, or raise num_generations.",
                self.num_idle,
                threshold,
                found,
                len(rewards),
            )
        if self._is_due(self.num_flat):
            logger.warning(
                "SDPO: for %d batches in a row all siblings got the same reward. Is the reward function right, and the"
                " task neither solved nor out of reach?",
                self.num_flat,
            )

    def _is_flat(self, group: Sequence[float]) -> bool:
        known = [reward for reward in group if reward == reward]
        return not known or max(known) - min(known) <= self.tolerance

    def _is_due(self, num: int) -> bool:
        return self.interval > 0 and num > 0 and num % self.interval == 0
