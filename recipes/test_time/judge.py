"""Is the question solved? The judge knows the tests that no reward and no feedback ever comes from.

A response is rewarded, and its feedback written, by the train row's tests. Those are a part of the test row's, so only
a response that passes them all is tried on the test row. Nothing of the outcome goes back but one bit, which ends the
run.
"""

from __future__ import annotations

from collections.abc import Sequence

from verl.types import Prompt, Sample
from verl.workers.reward import RewardPool, ScoreItem

SOLVED = 1.0
"""Score of a right response."""


class Judge:
    """Decides for one question.

    Args:
        hidden: the test row.
        rewards: scores with its tests; idle when `solved` is called.
    """

    def __init__(self, hidden: Prompt, rewards: RewardPool) -> None:
        self.hidden = hidden
        self.rewards = rewards

    def solved(self, samples: Sequence[Sample]) -> list[bool]:
        """Whether each of the scored responses solves the question."""
        passed = [index for index, sample in enumerate(samples) if sample.reward.score >= SOLVED]
        if not passed or all(self._is_hidden_row(samples[index].prompt) for index in passed):
            return [index in passed for index in range(len(samples))]
        self.rewards.submit([self._item(index, samples[index]) for index in passed])
        scores = {index: reward.score for index, reward in self.rewards.results()}
        return [scores.get(index, 0.0) >= SOLVED for index in range(len(samples))]

    def _is_hidden_row(self, prompt: Prompt) -> bool:
        """Whether the reward came from the same tests already."""
        own, hidden = ((row.data_source, row.ground_truth) for row in (prompt, self.hidden))
        return own == hidden

    def _item(self, index: int, sample: Sample) -> ScoreItem:
        return score_item(index, self.hidden, sample.response_text, sample.rollout.finish_reason == "length")


def score_item(request_id: int, row: Prompt, text: str, is_truncated: bool) -> ScoreItem:
    """What a scorer is given of one response, with the tests of `row`."""
    facts = {"truncated": is_truncated, "num_turns": 1}
    return ScoreItem(request_id, row.data_source, text, row.ground_truth, row.extra_info | facts)
