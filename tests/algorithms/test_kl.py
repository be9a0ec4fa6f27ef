"""KL estimators, by hand and in expectation."""

import pytest
import torch

from verl.algorithms.kl import kl_estimate

P = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)
Q = torch.tensor([0.2, 0.3, 0.5], dtype=torch.float64)


@pytest.mark.parametrize("kind", ["k1", "kl", "k3", "low_var_kl"])
def test_unbiased(kind):
    expected = (P * (P / Q).log()).sum()
    torch.testing.assert_close((P * kl_estimate(P.log(), Q.log(), kind)).sum(), expected)


@pytest.mark.parametrize(("kind", "value"), [("abs", 0.5), ("k2", 0.125), ("mse", 0.125), ("k3", 0.1487212707)])
def test_by_hand(kind, value):
    estimate = kl_estimate(torch.tensor(-1.5, dtype=torch.float64), torch.tensor(-1.0, dtype=torch.float64), kind)
    assert estimate.item() == pytest.approx(value, abs=1e-9)


def test_k3_is_bounded():
    assert kl_estimate(torch.tensor(-100.0), torch.tensor(0.0), "k3").item() == 10.0


def test_unknown_kind_is_refused():
    with pytest.raises(ValueError, match="'k4': must be one of k1"):
        kl_estimate(P, Q, "k4")
