"""Advantages, by hand."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from verl.algorithms import advantages
from verl.config.root import AlgorithmConfig

UIDS = ["a", "b", "a", "a", "c"]
SCORES = [1.0, 5.0, 0.0, 0.5, 2.0]


def rewards_and_mask():
    mask = torch.tensor([[1, 1, 0], [1, 0, 0], [1, 1, 1], [1, 1, 0], [1, 1, 1]])
    rewards = torch.zeros(5, 3)
    rewards[range(5), mask.sum(1) - 1] = torch.tensor(SCORES)
    return rewards, mask


@pytest.mark.parametrize(
    ("estimator", "by_std", "expected"),
    [
        (advantages.grpo, False, [0.5, 5.0, -0.5, 0.0, 2.0]),
        (advantages.grpo, True, [1.0, 5.0, -1.0, 0.0, 2.0]),  # standard deviation of 1, 0, 0.5 is 0.5
        (advantages.rloo, True, [0.75, 5.0, -0.75, 0.0, 2.0]),  # 1 - (0 + 0.5) / 2
    ],
)
def test_group_estimators(estimator, by_std, expected):
    rewards, mask = rewards_and_mask()
    result = estimator(rewards, mask, UIDS, AlgorithmConfig(norm_adv_by_std_in_grpo=by_std))
    torch.testing.assert_close(result, torch.tensor(expected)[:, None] * mask, atol=1e-5, rtol=0)


def test_reinforce_plus_plus_whitens_discounted_returns():
    rewards = torch.tensor([[0.0, 0.0, 4.0], [2.0, 0.0, 0.0]])
    mask = torch.tensor([[1, 0, 1], [1, 0, 0]])
    result = advantages.reinforce_plus_plus(rewards, mask, ["a", "b"], AlgorithmConfig(gamma=0.5))
    # returns 2, 4 (the token between them is the environment's) and 2: mean 8/3, deviation sqrt(4/3)
    low, high = -2 / 3 / (4 / 3) ** 0.5, 4 / 3 / (4 / 3) ** 0.5
    torch.testing.assert_close(result, torch.tensor([[low, 0, high], [low, 0, 0]]), atol=1e-5, rtol=0)


@pytest.mark.parametrize("estimator", [advantages.grpo, advantages.rloo])
@given(score=st.floats(-10, 10, width=32), size=st.integers(2, 9))
def test_equal_scores_teach_nothing(estimator, score, size):
    rewards, mask = torch.full((size, 1), score), torch.ones(size, 1)
    result = estimator(rewards, mask, ["a"] * size, AlgorithmConfig())
    assert result.abs().max() < 1e-6


@given(order=st.permutations(range(5)))
def test_rows_may_stand_in_any_order(order):
    rewards, mask = rewards_and_mask()
    expected = advantages.grpo(rewards, mask, UIDS, AlgorithmConfig())
    result = advantages.grpo(rewards[order], mask[order], [UIDS[i] for i in order], AlgorithmConfig())
    torch.testing.assert_close(result, expected[order])
