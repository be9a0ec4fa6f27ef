"""Weights for the gap between the engine that wrote a response and the trainer that learns from it.

Engine and trainer compute the same model with different kernels, so the sampled tokens come from a slightly different
policy than the one whose gradient is taken. Importance weights mend the expectation; a bound keeps their variance
(truncated importance sampling). Weights are constants: no gradient goes through them.
"""

from __future__ import annotations

import torch
from torch import Tensor

from verl.algorithms.base import LossInputs
from verl.algorithms.metrics import token_metrics
from verl.algorithms.ratio import importance_ratio
from verl.config.root import RolloutCorrectionConfig
from verl.protocol import Metrics


def behaviour_log_probs(inputs: LossInputs, config: RolloutCorrectionConfig) -> Tensor:
    """The old policy's log-probs [B, T], which ratios are taken against.

    `bypass_mode` takes the engine's; otherwise the recomputed ones, or, in the first update after a rollout, the
    student's own detached ones.
    """
    if config.bypass_mode:
        return _engine_log_probs(inputs, "bypass_mode=True")
    return inputs.student.log_probs.detach() if inputs.old_log_probs is None else inputs.old_log_probs


def rollout_weights(
    inputs: LossInputs, old_log_probs: Tensor, config: RolloutCorrectionConfig
) -> tuple[Tensor | None, Metrics]:
    """Weights [B, T] min(exp(old - engine), threshold) and what they are like.

    Level `token` takes each token's ratio; `sequence` the product of the ratios of the row's response tokens, in all
    of its positions. Where the engine gave no number (nan) nothing is corrected. No weights (None) when `rollout_is` is
    null. Raises ValueError when the weights are wanted and the engine's log-probs are not there.

    Metrics, means over response tokens: `rollout_corr/kl` and `rollout_corr/k3_kl` (KL(engine || old) by k1 and k3),
    `training/rollout_probs_diff_mean` (absolute difference of probabilities), `training/rollout_log_prob_gap` (of
    log-probs, nats, between engine and trainer also where `bypass_mode` takes the engine's as the old ones), and with
    weights `rollout_corr/rollout_is_mean` (bounded) and `rollout_corr/rollout_is_ratio_fraction_high` (share at the
    bound).
    """
    if config.rollout_is is None and inputs.rollout_log_probs is None:
        return None, {}
    is_response = inputs.response_mask > 0
    old = old_log_probs.detach()
    engine = _engine_log_probs(inputs, f"rollout_is={config.rollout_is}")
    engine = torch.where(engine.isnan(), old, engine)
    trainer = inputs.student.log_probs.detach() if config.bypass_mode else old
    log_ratio = torch.where(is_response, old - engine, 0.0)
    values = {
        "rollout_corr/kl": -log_ratio,
        "rollout_corr/k3_kl": importance_ratio(log_ratio) - 1 - log_ratio,
        "training/rollout_probs_diff_mean": (old.exp() - engine.exp()).abs(),
        "training/rollout_log_prob_gap": (trainer - engine).abs(),
    }
    weights = None
    if config.rollout_is is not None:
        if config.rollout_is == "sequence":
            log_ratio = log_ratio.sum(dim=1, keepdim=True).expand_as(log_ratio)
        ratio = importance_ratio(log_ratio)
        weights = torch.where(is_response, ratio.clamp(max=config.rollout_is_threshold), 0.0)
        values["rollout_corr/rollout_is_mean"] = weights
        values["rollout_corr/rollout_is_ratio_fraction_high"] = (ratio > config.rollout_is_threshold).float()
    return weights, token_metrics(values, inputs.response_mask)


def _engine_log_probs(inputs: LossInputs, because: str) -> Tensor:
    if inputs.rollout_log_probs is None:
        raise ValueError(
            f"algorithm.rollout_correction.{because} needs the engine's log-probs, and the batch has none;"
            " set actor_rollout_ref.rollout.calculate_log_probs=True"
        )
    return inputs.rollout_log_probs
