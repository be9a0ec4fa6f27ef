"""The reward role: workers that score responses as they end, off the driver's thread, and the pool that feeds them.

A response is handed to the least loaded worker at once and waits in that worker's queue, so workers go on while the
driver is busy elsewhere. One response is one call, because scoring times differ by orders of magnitude (a letter is
compared, a program is run). A scorer that raises costs its response the score, not the run.
"""

from __future__ import annotations

import traceback
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from verl import rewards
from verl.config.root import CustomRewardConfig
from verl.single_controller import Pending, Worker, WorkerGroup, dispatch
from verl.types import Reward


@dataclass(frozen=True)
class ScoreItem:
    """A response to be scored."""

    request_id: int
    data_source: str
    solution_str: str
    """The response as text."""
    ground_truth: Any
    extra_info: dict[str, Any] = field(default_factory=dict)


class RewardWorker(Worker):
    """Scores responses in its own process.

    Args:
        custom: the user's scorer; without a path, `verl.rewards` chooses one by `data_source`.
    """

    def __init__(self, custom: CustomRewardConfig) -> None:
        self._compute_score: Callable[..., Any] = rewards.compute_score
        if custom.path:
            self._compute_score = rewards.load_custom(custom.path, custom.name, custom.reward_kwargs)

    @dispatch()
    def score(self, item: ScoreItem) -> Reward:
        """Score one response. A scorer's exception gives score 0 and its traceback in `Reward.error`."""
        try:
            return rewards.score_to_reward(
                self._compute_score(
                    data_source=item.data_source,
                    solution_str=item.solution_str,
                    ground_truth=item.ground_truth,
                    extra_info=item.extra_info,
                )
            )
        except Exception:
            return Reward(score=0.0, acc=0.0, error=traceback.format_exc())


class RewardPool:
    """All reward workers, as one.

    Args:
        group: the started workers (`RewardWorker`).
    """

    def __init__(self, group: WorkerGroup) -> None:
        self.group = group
        self.num_errors = 0
        """Responses whose scorer failed, since the pool was made."""
        self._queues: list[deque[tuple[int, Pending]]] = [deque() for _ in range(group.world_size)]
        self._finished: deque[tuple[int, Reward]] = deque()

    def submit(self, items: Sequence[ScoreItem]) -> None:
        """Begin to score; does not wait. Raises WorkerError if a worker has died."""
        self._collect()
        for item in items:
            rank = min(range(len(self._queues)), key=lambda r: len(self._queues[r]))
            self._queues[rank].append((item.request_id, self.group.start_on(rank, "score", item)))

    def results(self) -> Iterator[tuple[int, Reward]]:
        """(request id, reward) of everything submitted and not yet given out, as it is finished.

        Raises WorkerError if a worker dies.
        """
        while True:
            self._collect()
            while self._finished:
                yield self._finished.popleft()
            heads = [queue[0][1] for queue in self._queues if queue]
            if not heads:
                return
            self.group.wait_any(heads)

    def shutdown(self) -> None:
        self.group.shutdown()

    def _collect(self) -> None:
        """Take what is done. A worker's calls end in order, so only the head of each queue need be asked."""
        for queue in self._queues:
            while queue and queue[0][1].is_done:
                request_id, pending = queue.popleft()
                reward: Reward = pending.result()
                self.num_errors += bool(reward.error)
                self._finished.append((request_id, reward))
