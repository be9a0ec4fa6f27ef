"""PPO's, GSPO's and CISPO's losses, and which tokens they are of, by hand."""

import math

import pytest
import torch

from verl.algorithms.aggregation import count_mask
from verl.algorithms.base import LossInputs, TokenDistribution
from verl.algorithms.high_entropy import keep_high_entropy
from verl.algorithms.policy_gradient import CISPO, GSPO, Vanilla
from verl.config import ActorConfig
from verl.config.root import AlgorithmConfig, RolloutCorrectionConfig
from verl.protocol import Row, Totals, mean_metrics


def inputs(log_probs, mask, **more):
    totals = count_mask(mask)
    return LossInputs(
        student=TokenDistribution(log_probs=log_probs, entropy=more.pop("entropy", None)),
        response_mask=mask,
        self_distillation_mask=torch.zeros(len(mask)),
        totals=Totals(totals, totals, mask.shape[1]),
        **more,
    )


def test_clip_higher_and_dual_clip():
    # ratios and advantages: inside, above the upper bound, below the lower one, and far off with A < 0
    ratios, adv = torch.tensor([[1.1, 2.0, 0.5, 9.0]]), torch.tensor([[1.0, 1.0, -1.0, -2.0]])
    log_probs = ratios.log().requires_grad_()
    actor = ActorConfig(clip_ratio_low=0.2, clip_ratio_high=0.28, clip_ratio_c=3.0)
    batch = inputs(log_probs, torch.ones(1, 4), old_log_probs=torch.zeros(1, 4), advantages=adv)
    loss, metrics = Vanilla(actor, AlgorithmConfig()).loss(batch)
    loss.backward()
    assert loss.item() == pytest.approx((-1.1 - 1.28 + 0.8 + 6.0) / 4)
    torch.testing.assert_close(log_probs.grad, torch.tensor([[-1.1 / 4, 0.0, 0.0, 0.0]]))
    means = mean_metrics(metrics)
    assert means["actor/pg_loss"] == pytest.approx(loss.item())
    assert means["actor/pg_clipfrac"] == pytest.approx(0.5)
    assert means["actor/pg_clipfrac_lower"] == pytest.approx(0.25)
    assert means["actor/ppo_kl"] == pytest.approx(-math.log(1.1 * 2.0 * 0.5 * 9.0) / 4)


def test_first_update_has_the_plain_policy_gradient():
    log_probs = torch.tensor([[-1.0, -2.0]], requires_grad=True)
    batch = inputs(log_probs, torch.ones(1, 2), advantages=torch.tensor([[3.0, -1.0]]))
    loss, _ = Vanilla(ActorConfig(), AlgorithmConfig()).loss(batch)
    loss.backward()
    torch.testing.assert_close(log_probs.grad, torch.tensor([[-1.5, 0.5]]))


def test_gspo_ratio_is_a_geometric_mean():
    log_probs = torch.tensor([[math.log(1.2), math.log(0.9), 5.0], [math.log(2.0), 0.0, 0.0]], requires_grad=True)
    mask = torch.tensor([[1.0, 1, 0], [1, 1, 1]])
    adv = torch.tensor([[1.0], [1.0]]) * mask
    batch = inputs(log_probs, mask, old_log_probs=torch.zeros(2, 3), advantages=adv)
    loss, metrics = GSPO(ActorConfig(clip_ratio=0.2), AlgorithmConfig()).loss(batch)
    loss.backward()
    first = math.sqrt(1.2 * 0.9)  # inside; the second is 2^(1/3) = 1.26, clipped to 1.2
    assert loss.item() == pytest.approx(-(first + 1.2) / 2)
    torch.testing.assert_close(log_probs.grad, torch.tensor([[-first / 4, -first / 4, 0.0], [0, 0, 0]]))
    assert mean_metrics(metrics)["actor/pg_clipfrac"] == pytest.approx(3 / 5)


def test_entropy_bonus_and_kl_are_added():
    log_probs, mask = torch.tensor([[-1.0, -2.0]], requires_grad=True), torch.tensor([[1.0, 1.0]])
    actor = ActorConfig(entropy_coeff=0.1, use_kl_loss=True, kl_loss_coef=0.5, kl_loss_type="k2")
    more = {"advantages": torch.zeros(1, 2), "entropy": torch.tensor([[2.0, 4.0]])}
    batch = inputs(log_probs, mask, ref_log_probs=torch.tensor([[-1.0, -4.0]]), **more)
    loss, metrics = Vanilla(actor, AlgorithmConfig()).loss(batch)
    assert loss.item() == pytest.approx(0.5 * (0 + 2) / 2 - 0.1 * 3.0)
    means = mean_metrics(metrics)
    assert means["actor/entropy"] == 3.0 and means["actor/kl_loss"] == 1.0 and means["actor/kl_coef"] == 0.5


@pytest.mark.parametrize(("level", "weights"), [("token", [[2.0, 0.5, 1.0]]), ("sequence", [[2.0, 2.0, 2.0]])])
def test_rollout_correction(level, weights):
    # old / engine = 8, 1/2, 1: the product is 4, the threshold 2
    old = torch.zeros(1, 4)
    engine = -torch.tensor([[8.0, 0.5, 1.0, 0.01]]).log()
    mask = torch.tensor([[1.0, 1, 1, 0]])
    batch = inputs(old, mask, old_log_probs=old, rollout_log_probs=engine, advantages=torch.ones(1, 4))
    correction = RolloutCorrectionConfig(rollout_is=level, rollout_is_threshold=2.0)
    loss, metrics = Vanilla(ActorConfig(), AlgorithmConfig(rollout_correction=correction)).loss(batch)
    assert loss.item() == pytest.approx(-sum(weights[0]) / 3)
    means = mean_metrics(metrics)
    assert means["rollout_corr/rollout_is_mean"] == pytest.approx(sum(weights[0]) / 3)
    assert means["rollout_corr/rollout_is_ratio_fraction_high"] == pytest.approx(1 / 3 if level == "token" else 1)
    assert means["rollout_corr/kl"] == pytest.approx(-math.log(4) / 3)
    assert means["rollout_corr/k3_kl"] == pytest.approx((8 + 0.5 + 1 - 3 - math.log(4)) / 3)
    assert means["training/rollout_probs_diff_mean"] == pytest.approx((7 / 8 + 1 + 0) / 3)


def test_bypass_takes_ratios_against_the_engine():
    engine = -torch.tensor([[1.1]]).log()
    batch = inputs(torch.zeros(1, 1), torch.ones(1, 1), rollout_log_probs=engine, advantages=torch.ones(1, 1))
    correction = RolloutCorrectionConfig(rollout_is="token", bypass_mode=True)
    loss, _ = Vanilla(ActorConfig(), AlgorithmConfig(rollout_correction=correction)).loss(batch)
    assert loss.item() == pytest.approx(-1.1)


@pytest.mark.parametrize(
    ("actor", "correction", "more", "message"),
    [
        ({}, {}, {}, "no advantages"),
        ({}, {"rollout_is": "token"}, {"advantages": torch.ones(1, 1)}, "calculate_log_probs=True"),
        ({"use_kl_loss": True}, {}, {"advantages": torch.ones(1, 1)}, "use_kl_loss=True"),
    ],
)
def test_missing_inputs_are_named(actor, correction, more, message):
    algorithm = AlgorithmConfig(rollout_correction=RolloutCorrectionConfig(**correction))
    with pytest.raises(ValueError, match=message):
        Vanilla(ActorConfig(**actor), algorithm).loss(inputs(torch.zeros(1, 1), torch.ones(1, 1), **more))


def test_cispo_clips_the_weight_of_a_token_and_keeps_its_gradient():
    # ratios: inside, above the upper bound, below the lower one; the last token is not the policy's
    ratios, adv = torch.tensor([[1.1, 2.0, 0.5, 9.0]]), torch.tensor([[1.0, 1.0, -1.0, -2.0]])
    old = torch.tensor([[-1.0, -2.0, -0.5, -3.0]])
    log_probs = (old + ratios.log()).requires_grad_()
    actor = ActorConfig(clip_ratio_low=0.2, clip_ratio_high=0.28)
    batch = inputs(log_probs, torch.tensor([[1.0, 1, 1, 0]]), old_log_probs=old, advantages=adv)
    loss, metrics = CISPO(actor, AlgorithmConfig()).loss(batch)
    loss.backward()
    torch.testing.assert_close(log_probs.grad, torch.tensor([[-1.1 / 3, -1.28 / 3, 0.8 / 3, 0.0]]))
    values = [math.log(ratio) + value for ratio, value in ((1.1, -1.0), (2.0, -2.0), (0.5, -0.5))]
    assert loss.item() == pytest.approx((-1.1 * values[0] - 1.28 * values[1] + 0.8 * values[2]) / 3)
    assert mean_metrics(metrics)["actor/pg_clipfrac"] == pytest.approx(2 / 3)


def test_cispo_without_a_lower_bound():
    log_probs = torch.tensor([[math.log(1e-3)]], requires_grad=True)
    batch = inputs(log_probs, torch.ones(1, 1), old_log_probs=torch.zeros(1, 1), advantages=torch.ones(1, 1))
    loss, _ = CISPO(ActorConfig(clip_ratio_low=1.0), AlgorithmConfig()).loss(batch)
    loss.backward()
    assert log_probs.grad.item() == pytest.approx(-1e-3)


def test_high_entropy_tokens_of_the_whole_batch_keep_their_advantages():
    # Of the 8 tokens that the policy wrote the two most uncertain are kept, and the third, which is as uncertain as the
    # second; the token with entropy 9 was put in by an environment.
    rows = [
        Row([1], [2, 3, 4], [1, 1, 1], advantages=[1.0, 2.0, 3.0], entropies=[0.1, 2.0, 0.3], index=0),
        Row([1], [2, 3], [1, 0], advantages=[-1.0, 0.0], entropies=[0.2, 9.0], index=1),
        Row([1], [5, 6, 7, 8], [1, 1, 1, 1], advantages=[-4.0] * 4, entropies=[1.5, 1.5, 0.0, 0.4], index=2),
    ]
    kept, threshold = keep_high_entropy(rows, 0.25)
    assert threshold == 1.5
    assert [row.advantages for row in kept] == [[0.0, 2.0, 0.0], [0.0, 0.0], [-4.0, -4.0, 0.0, 0.0]]
    assert all(row.entropies == [] for row in kept)
    assert [row.advantages for row in keep_high_entropy(rows, 1.0)[0]] == [row.advantages for row in rows]
    one, threshold = keep_high_entropy(rows, 0.01)  # at least one
    assert threshold == 2.0 and sum(a != 0 for row in one for a in row.advantages) == 1
    assert keep_high_entropy([Row([1], [2], [0], advantages=[0.0], entropies=[1.0])], 0.2)[1] == 0.0
