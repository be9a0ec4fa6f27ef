"""The SDPO loss (arXiv 2601.20802), written to be read.

The policy (student) learns to predict, without the hint, what it predicts with the hint (teacher): both score the same
sampled response, and at every response token the student's distribution is pulled towards the teacher's.
From top to bottom: which outcomes are compared, how far apart two distributions are, the loss of every token, and
their mean. `verl.algorithms.sdpo` trains with the same `token_losses`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from verl.algorithms.aggregation import aggregate, count_mask
from verl.algorithms.metrics import token_metrics
from verl.algorithms.ratio import bounded_weight, importance_ratio
from verl.config.self_distillation import SelfDistillationConfig
from verl.protocol import Metrics, mean_metrics

_MAX_LOG_MASS = -1e-7  # the tail keeps at least this much probability, so that its logarithm and gradient are finite


def complete(topk_log_probs: Tensor, add_tail: bool) -> Tensor:
    """Make a distribution of K log-probs that sum to less than 1.

    Args:
        topk_log_probs: [..., K] over the full vocabulary.
        add_tail: append one outcome for all other tokens together ([..., K + 1]); otherwise renormalise over the K.
    """
    log_mass = topk_log_probs.logsumexp(dim=-1, keepdim=True)
    if not add_tail:
        return topk_log_probs - log_mass
    tail = torch.log(-torch.expm1(log_mass.clamp(max=_MAX_LOG_MASS)))
    return torch.cat([topk_log_probs, tail], dim=-1)


def kl_divergence(log_p: Tensor, log_q: Tensor) -> Tensor:
    """KL(p || q) in nats over the last dimension."""
    return (log_p.exp() * (log_p - log_q)).sum(dim=-1)


def divergence(student: Tensor, teacher: Tensor, alpha: float, normalize: bool = False) -> Tensor:
    """How far the student is from the teacher, in nats: generalised Jensen-Shannon, or a KL at its two ends.

    alpha = 0 is KL(teacher || student), alpha = 1 is KL(student || teacher). Between, with the mixture
    M = (1 - alpha) student + alpha teacher, it is (1 - alpha) KL(student || M) + alpha KL(teacher || M). That form
    tends to 0 at both ends instead of to the two KLs: alpha = 0.001 is about a thousand times weaker than alpha = 0.

    Args:
        student: log-probs [..., outcomes].
        teacher: log-probs [..., outcomes].
        alpha: in [0, 1].
        normalize: divide by alpha (1 - alpha) between the ends; the limits then are the two KLs.
    """
    if alpha == 0.0:
        return kl_divergence(teacher, student)
    if alpha == 1.0:
        return kl_divergence(student, teacher)
    mixture = torch.logaddexp(student + math.log1p(-alpha), teacher + math.log(alpha))
    mixed = (1 - alpha) * kl_divergence(student, mixture) + alpha * kl_divergence(teacher, mixture)
    return mixed / (alpha * (1 - alpha)) if normalize else mixed


@dataclass(frozen=True)
class TokenLosses:
    """What `token_losses` returns; all [B, T]."""

    losses: Tensor
    """With gradient; weighted by the ratio and the rollout weights."""
    divergence: Tensor
    """Unweighted, with gradient; with credit `token` and `sequence` its one-sample estimate student - teacher, which
    has none."""
    ratio: Tensor | None
    """exp(student - old) before its upper bound; None without `is_clip`."""


def token_losses(
    student_log_probs: Tensor,
    teacher_log_probs: Tensor,
    response_mask: Tensor,
    self_distillation_config: SelfDistillationConfig,
    old_log_probs: Tensor | None = None,
    student_all_log_probs: Tensor | None = None,
    teacher_all_log_probs: Tensor | None = None,
    student_topk_log_probs: Tensor | None = None,
    teacher_topk_log_probs: Tensor | None = None,
    rollout_is_weights: Tensor | None = None,
    full_divergence: Tensor | None = None,
) -> TokenLosses:
    """The loss of every response token; arguments as in `compute_self_distillation_loss`.

    `full_divergence` [B, T] stands for the two `all_log_probs` when somebody has already compared them: the streamed
    loss does, so that they need not exist.
    """
    config = self_distillation_config
    check(config)
    student, teacher = student_log_probs, teacher_log_probs
    if credit_of(config) == "logit":
        normalize = _setting(config, "normalize_divergence")
        if full_divergence is not None:
            losses = full_divergence
        elif config.distillation_topk is not None:
            pair = _both("topk_log_probs", student_topk_log_probs, teacher_topk_log_probs, config)
            student_support, teacher_support = (complete(lp, config.distillation_add_tail) for lp in pair)
            losses = divergence(student_support, teacher_support.detach(), config.alpha, normalize)
        else:
            pair = _both("all_log_probs", student_all_log_probs, teacher_all_log_probs, config)
            losses = divergence(pair[0], pair[1].detach(), config.alpha, normalize)
        distance = losses
    else:
        distance = (student - teacher).detach()
        losses = -_advantages(config, -distance, response_mask) * student

    ratio = None
    if config.is_clip is not None:
        if old_log_probs is None:
            raise ValueError(f"is_clip={config.is_clip} needs old_log_probs; pass them, or set is_clip to null")
        ratio = importance_ratio((student - old_log_probs).detach())
        losses = losses * bounded_weight(ratio, config.is_clip, _setting(config, "is_coef"))
    if rollout_is_weights is not None:
        losses = losses * rollout_is_weights
    return TokenLosses(losses, distance, ratio)


def compute_self_distillation_loss(
    student_log_probs: Tensor,
    teacher_log_probs: Tensor,
    response_mask: Tensor,
    self_distillation_config: SelfDistillationConfig,
    old_log_probs: Tensor | None = None,
    student_all_log_probs: Tensor | None = None,
    teacher_all_log_probs: Tensor | None = None,
    student_topk_log_probs: Tensor | None = None,
    teacher_topk_log_probs: Tensor | None = None,
    self_distillation_mask: Tensor | None = None,
    loss_agg_mode: str = "token-mean",
    rollout_is_weights: Tensor | None = None,
) -> tuple[Tensor, dict[str, float]]:
    """The SDPO loss of a batch that is whole (not a part of a larger mini-batch).

    Log-probs are over the full vocabulary, temperature applied. The teacher gets no gradient.

    Args:
        student_log_probs: [B, T] of the sampled tokens.
        teacher_log_probs: [B, T] of the same tokens, after the teacher's prompt.
        response_mask: [B, T], 1 where the policy wrote the token.
        self_distillation_config: any object with the fields of `SelfDistillationConfig`.
        old_log_probs: [B, T] of the policy that sampled; needed by `is_clip`.
        student_all_log_probs: [B, T, V], with `distillation_topk` null.
        teacher_all_log_probs: [B, T, V], with `distillation_topk` null.
        student_topk_log_probs: [B, T, K] at the student's most likely tokens.
        teacher_topk_log_probs: [B, T, K] at the same tokens.
        self_distillation_mask: [B], 1 where the row has a target; None: all have.
        loss_agg_mode: see `verl.algorithms.aggregation`; `seq-mean-token-sum-norm` divides by T.
        rollout_is_weights: [B, T] further weights.

    Returns:
        The scalar loss (exactly 0 with a zero gradient when no row has a target), and metrics.

    Raises:
        ValueError: an input of the chosen mode is missing, or the configuration contradicts itself.
    """
    per_token = token_losses(
        student_log_probs,
        teacher_log_probs,
        response_mask,
        self_distillation_config,
        old_log_probs,
        student_all_log_probs,
        teacher_all_log_probs,
        student_topk_log_probs,
        teacher_topk_log_probs,
        rollout_is_weights,
    )
    mask = response_mask if self_distillation_mask is None else response_mask * self_distillation_mask[:, None]
    loss = aggregate(per_token.losses, mask, loss_agg_mode, count_mask(mask), norm_divisor=mask.shape[1])
    return loss, mean_metrics(loss_metrics(per_token, mask, self_distillation_config))


def loss_metrics(per_token: TokenLosses, mask: Tensor, config: SelfDistillationConfig) -> Metrics:
    """Means over the tokens of a mask [B, T]: the divergence, the ratio, and how often its bound held it."""
    values = {"self_distillation/divergence": per_token.divergence}
    if per_token.ratio is not None and config.is_clip is not None:
        values["self_distillation/is_ratio_mean"] = per_token.ratio
        values["self_distillation/is_clip_fraction"] = (per_token.ratio > config.is_clip).float()
    return token_metrics(values, mask)


def credit_of(config: SelfDistillationConfig) -> str:
    """Granularity of the learning signal: `logit`, `token` or `sequence`."""
    credit = _setting(config, "credit")
    return "token" if credit == "logit" and not config.full_logit_distillation else credit


def check(config: SelfDistillationConfig) -> None:
    """Refuse settings that contradict each other (ValueError)."""
    credit = credit_of(config)
    if not 0.0 <= config.alpha <= 1.0:
        raise ValueError(f"alpha={config.alpha}: must be between 0 and 1")
    if credit != "logit" and config.alpha != 1.0:
        raise ValueError(
            f"alpha={config.alpha}: credit by {credit} (full_logit_distillation={config.full_logit_distillation})"
            " estimates KL(student || teacher) from the sampled tokens, so it exists only for alpha=1.0"
        )
    advantage_clip = _setting(config, "advantage_clip")
    if credit == "logit" and advantage_clip is not None:
        raise ValueError(
            f"advantage_clip={advantage_clip}: bounds the advantage of sampled tokens, and credit=logit has none;"
            " set credit to token or sequence, or advantage_clip to null"
        )


def _advantages(config: SelfDistillationConfig, advantages: Tensor, mask: Tensor) -> Tensor:
    """Bound log teacher - log student [B, T] from above, and average it over the row for credit `sequence`."""
    clip = _setting(config, "advantage_clip")
    if clip is not None:
        advantages = advantages.clamp(max=clip)
    if credit_of(config) == "token":
        return advantages
    total = torch.where(mask > 0, advantages, 0.0).sum(dim=1, keepdim=True)
    return (total / (mask > 0).sum(dim=1, keepdim=True).clamp(min=1)).expand_as(advantages)


def _both(
    name: str, student: Tensor | None, teacher: Tensor | None, config: SelfDistillationConfig
) -> tuple[Tensor, Tensor]:
    """The two tensors that a mode compares; ValueError names the missing one."""
    for side, tensor in (("student", student), ("teacher", teacher)):
        if tensor is None:
            raise ValueError(f"distillation_topk={config.distillation_topk} needs {side}_{name}, which is None")
    assert student is not None and teacher is not None
    return student, teacher


def _setting(config: SelfDistillationConfig, name: str) -> Any:
    """A setting that a caller's own configuration object may lack: then its default."""
    return getattr(config, name, getattr(SelfDistillationConfig, name))
