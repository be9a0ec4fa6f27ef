"""The four ways to average, by hand."""

import pytest
import torch

from verl.algorithms.aggregation import MODES, aggregate, count_mask
from verl.protocol import MaskTotals

LOSSES = torch.tensor([[1.0, 2.0, 4.0], [8.0, 16.0, 32.0], [64.0, 128.0, 256.0]])
MASK = torch.tensor([[1, 1, 0], [1, 0, 0], [0, 0, 0]])


@pytest.mark.parametrize(
    ("mode", "value"),
    [
        ("token-mean", (1 + 2 + 8) / 3),
        ("seq-mean-token-sum", (1 + 2 + 8) / 2),
        ("seq-mean-token-mean", ((1 + 2) / 2 + 8) / 2),
        ("seq-mean-token-sum-norm", (1 + 2 + 8) / 10),
    ],
)
def test_by_hand(mode, value):
    assert aggregate(LOSSES, MASK, mode, count_mask(MASK), 10).item() == pytest.approx(value)


@pytest.mark.parametrize("mode", MODES)
def test_nothing_counts(mode):
    losses = LOSSES.clone().requires_grad_()
    loss = aggregate(losses, torch.zeros_like(MASK), mode, MaskTotals(0, 0), 0)
    loss.backward()
    assert loss.item() == 0.0
    assert losses.grad is not None and losses.grad.abs().max() == 0


def test_masked_values_are_not_read():
    losses = LOSSES.masked_fill(MASK == 0, float("inf"))
    assert aggregate(losses, MASK, "token-mean", count_mask(MASK), 1).item() == pytest.approx(11 / 3)


def test_unknown_mode_is_refused():
    with pytest.raises(ValueError, match="loss_agg_mode=mean: must be one of token-mean"):
        aggregate(LOSSES, MASK, "mean", count_mask(MASK), 1)


def test_count_mask():
    assert count_mask(MASK) == MaskTotals(num_tokens=3, num_rows=2)
