"""From rewards to advantages, without a critic: the siblings of a group, or the batch, are the baseline.

Each estimator takes the rewards where they fell (the score on the last response token, a KL penalty on every one) and
the `uid` that siblings share, and returns one number for each response token. Rows may stand in any order.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from verl.config.root import AlgorithmConfig

_EPSILON = 1e-6  # keeps a group of equal scores at 0; its rounding errors must be far smaller, hence float64 below


def grpo(token_level_rewards: Tensor, response_mask: Tensor, uids: Sequence[str], config: AlgorithmConfig) -> Tensor:
    """Score minus the mean of its group, divided by the group's standard deviation (arXiv 2402.03300).

    The division (by the unbiased deviation) happens with `norm_adv_by_std_in_grpo`. A group of one has nothing
    to compare with: its score is its advantage.

    Args:
        token_level_rewards: [B, T].
        response_mask: [B, T].
        uids: B names of groups.
        config: `norm_adv_by_std_in_grpo` is read.

    Returns:
        [B, T], the same in every response token of a row, 0 elsewhere.
    """
    scores = token_level_rewards.double().sum(dim=1)
    advantages = scores.clone()
    for rows in _groups(uids):
        if len(rows) == 1:
            continue
        group = scores[rows]
        centred = group - group.mean()
        advantages[rows] = centred / (group.std() + _EPSILON) if config.norm_adv_by_std_in_grpo else centred
    return (advantages[:, None] * response_mask).to(token_level_rewards.dtype)


def rloo(token_level_rewards: Tensor, response_mask: Tensor, uids: Sequence[str], config: AlgorithmConfig) -> Tensor:
    """Score minus the mean of the row's siblings, itself left out (arXiv 2402.14740).

    Shapes as `grpo`. A group of one has no siblings: its score is its advantage.
    """
    scores = token_level_rewards.double().sum(dim=1)
    advantages = scores.clone()
    for rows in _groups(uids):
        if len(rows) == 1:
            continue
        group = scores[rows]
        advantages[rows] = group - (group.sum() - group) / (len(rows) - 1)
    return (advantages[:, None] * response_mask).to(token_level_rewards.dtype)


def reinforce_plus_plus(
    token_level_rewards: Tensor, response_mask: Tensor, uids: Sequence[str], config: AlgorithmConfig
) -> Tensor:
    """Discounted return of each token, whitened over all response tokens of the batch (arXiv 2501.03262).

    Shapes as `grpo`. The discount `gamma` counts response tokens: tokens that an environment put in cost nothing.
    """
    returns = torch.zeros_like(token_level_rewards)
    running = token_level_rewards.new_zeros(len(token_level_rewards))  # also where no row has a token
    for t in reversed(range(token_level_rewards.shape[1])):
        is_response = response_mask[:, t] > 0
        running = torch.where(is_response, config.gamma * running, running) + token_level_rewards[:, t]
        returns[:, t] = running
    values = returns[response_mask > 0]
    if values.numel() < 2:
        return returns * response_mask
    return (returns - values.mean()) / (values.std() + _EPSILON) * response_mask


def _groups(uids: Sequence[str]) -> list[list[int]]:
    """Row numbers of each group, in order of first appearance."""
    groups: dict[str, list[int]] = {}
    for row, uid in enumerate(uids):
        groups.setdefault(uid, []).append(row)
    return list(groups.values())
