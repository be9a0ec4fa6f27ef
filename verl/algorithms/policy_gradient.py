"""Policy gradients with clipped importance ratios: PPO's token-level loss (`vanilla`), GSPO's sequence-level one, and
CISPO, which clips the weight of a token instead of the token.

All learn from advantages alone; `verl.algorithms.advantages` says where these come from (GRPO, RLOO, ...).
"""

from __future__ import annotations

from abc import abstractmethod

import torch
from torch import Tensor

from verl.algorithms.aggregation import aggregate
from verl.algorithms.base import Algorithm, LossInputs
from verl.algorithms.metrics import mini_batch_metrics, token_metrics
from verl.algorithms.ratio import importance_ratio
from verl.algorithms.regularizers import regularization
from verl.algorithms.rollout_correction import behaviour_log_probs, rollout_weights
from verl.config.actor import ActorConfig
from verl.protocol import Metrics


def clip_bounds(actor: ActorConfig) -> tuple[float, float]:
    """Lowest and highest ratio that still has a gradient."""
    low = actor.clip_ratio if actor.clip_ratio_low is None else actor.clip_ratio_low
    high = actor.clip_ratio if actor.clip_ratio_high is None else actor.clip_ratio_high
    return 1.0 - low, 1.0 + high


def ppo_token_losses(
    log_probs: Tensor, old_log_probs: Tensor, advantages: Tensor, actor: ActorConfig
) -> tuple[Tensor, dict[str, Tensor]]:
    """PPO's clipped loss of every token, with clip-higher and dual clip; all tensors [B, T].

    With r = exp(log_probs - old): max(-A r, -A clip(r, 1 - low, 1 + high)) (arXiv 1707.06347; separate bounds: DAPO,
    arXiv 2503.14476), and for A < 0 at most -A `clip_ratio_c` (arXiv 1912.09729).

    Returns:
        Losses, and per-token values of `actor/ppo_kl`, `actor/pg_clipfrac` and `actor/pg_clipfrac_lower`.
    """
    log_ratio = log_probs - old_log_probs
    ratio = importance_ratio(log_ratio)
    plain = -advantages * ratio
    clipped = -advantages * ratio.clamp(*clip_bounds(actor))
    losses = torch.maximum(plain, clipped)
    bound = -advantages * actor.clip_ratio_c
    is_bounded = (advantages < 0) & (losses > bound)
    values = {
        "actor/ppo_kl": -log_ratio,
        "actor/pg_clipfrac": (clipped > plain).float(),
        "actor/pg_clipfrac_lower": is_bounded.float(),
    }
    return torch.where(is_bounded, bound, losses), values


def gspo_token_losses(
    log_probs: Tensor, old_log_probs: Tensor, advantages: Tensor, mask: Tensor, actor: ActorConfig
) -> tuple[Tensor, dict[str, Tensor]]:
    """GSPO's clipped loss (arXiv 2507.18071), spread over the tokens; all tensors [B, T].

    The ratio is the geometric mean of the row's token ratios. It has the same value at every token, while its
    gradient is that of the token's own log-prob, so that per-token advantages work too (the paper's GSPO-token).
    """
    log_ratio = torch.where(mask > 0, log_probs - old_log_probs, 0.0)
    mean_log_ratio = log_ratio.sum(dim=1, keepdim=True) / mask.sum(dim=1, keepdim=True).clamp(min=1)
    ratio = importance_ratio(mean_log_ratio.detach() + log_probs - log_probs.detach())
    plain = -advantages * ratio
    clipped = -advantages * ratio.clamp(*clip_bounds(actor))
    values = {"actor/ppo_kl": -log_ratio, "actor/pg_clipfrac": (clipped > plain).float()}
    return torch.maximum(plain, clipped), values


def cispo_token_losses(
    log_probs: Tensor, old_log_probs: Tensor, advantages: Tensor, actor: ActorConfig
) -> tuple[Tensor, dict[str, Tensor]]:
    """CISPO's loss of every token (MiniMax-M1, arXiv 2506.13585, equations 4 and 5); all tensors [B, T].

    With r = exp(log_probs - old): -stopgrad(clip(r, 1 - low, 1 + high)) A log_probs. A ratio beyond the bounds only
    stops growing: unlike in PPO its token keeps a gradient. The paper tunes `clip_ratio_high` and has no lower bound,
    which is `clip_ratio_low=1`.
    """
    log_ratio = (log_probs - old_log_probs).detach()
    ratio = importance_ratio(log_ratio)
    weight = ratio.clamp(*clip_bounds(actor))
    values = {"actor/ppo_kl": -log_ratio, "actor/pg_clipfrac": (weight != ratio).float()}
    return -weight * advantages * log_probs, values


def require_advantages(inputs: LossInputs) -> Tensor:
    """The advantages [B, T]; ValueError when the batch has none."""
    if inputs.advantages is None:
        raise ValueError("the batch has no advantages, and this loss needs them (Algorithm.needs_advantages)")
    return inputs.advantages


class _PolicyGradient(Algorithm):
    """The steps all share; a subclass gives the per-token loss and how it is averaged."""

    needs_advantages = True

    @abstractmethod
    def _token_losses(self, inputs: LossInputs, old: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Losses [B, T] and per-token metrics [B, T]."""

    def _aggregate(self, inputs: LossInputs, losses: Tensor) -> Tensor:
        return inputs.aggregate_response(losses, self.actor)

    def loss(self, inputs: LossInputs) -> tuple[Tensor, Metrics]:
        correction = self.algorithm.rollout_correction
        old = behaviour_log_probs(inputs, correction)
        losses, values = self._token_losses(inputs, old)
        weights, weight_metrics = rollout_weights(inputs, old, correction)
        policy_loss = self._aggregate(inputs, losses if weights is None else losses * weights)
        added, added_metrics = regularization(inputs, self.actor)
        metrics = {
            **mini_batch_metrics({"actor/pg_loss": policy_loss}, inputs.response_mask, inputs.totals.response),
            **token_metrics(values, inputs.response_mask),
            **weight_metrics,
            **added_metrics,
        }
        return policy_loss + added, metrics


class Vanilla(_PolicyGradient):
    """`loss_mode=vanilla`: PPO's loss; GRPO when the advantages are."""

    def _token_losses(self, inputs: LossInputs, old: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        return ppo_token_losses(inputs.student.log_probs, old, require_advantages(inputs), self.actor)


class CISPO(_PolicyGradient):
    """`loss_mode=cispo`."""

    def _token_losses(self, inputs: LossInputs, old: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        return cispo_token_losses(inputs.student.log_probs, old, require_advantages(inputs), self.actor)


class GSPO(_PolicyGradient):
    """`loss_mode=gspo`. A mean over sequences by definition: `loss_agg_mode` reaches only the entropy and KL terms."""

    @property
    def couples_tokens(self) -> bool:
        return True

    def _token_losses(self, inputs: LossInputs, old: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        advantages = require_advantages(inputs)
        return gspo_token_losses(inputs.student.log_probs, old, advantages, inputs.response_mask, self.actor)

    def _aggregate(self, inputs: LossInputs, losses: Tensor) -> Tensor:
        return aggregate(losses, inputs.response_mask, "seq-mean-token-mean", inputs.totals.response, 1.0)
