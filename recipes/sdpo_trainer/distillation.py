"""The SDPO loss on plain tensors, under the names and in the argument order that TRL users have in their code.

Each function is a call of `verl.algorithms`, where the formulas stand; what is translated here is the form alone: loose
arguments instead of a configuration, masks of any type, metrics with the prefix `sdpo/`. Needs torch, not TRL.
Log-probs are in nats, over the full vocabulary, with the sampling temperature applied. B rows, T response tokens, K
outcomes. The teacher never gets a gradient.
"""

from __future__ import annotations

from torch import Tensor

from verl.algorithms import self_distillation_loss as core
from verl.algorithms.aggregation import aggregate, count_mask
from verl.algorithms.head import accumulation_dtype
from verl.algorithms.ratio import bounded_weight, importance_ratio
from verl.config.self_distillation import SelfDistillationConfig


def add_tail_bucket(topk_log_probs: Tensor) -> Tensor:
    """Append one outcome for all other tokens together: [B, T, K] becomes [B, T, K + 1], probabilities of sum 1."""
    return core.complete(topk_log_probs, add_tail=True)


def top_k_kl_divergence(
    student_topk_log_probs: Tensor, teacher_topk_log_probs: Tensor, alpha: float = 0.5, add_tail: bool = True
) -> Tensor:
    """How far the student is from the teacher at every token, in nats: [B, T].

    Args:
        student_topk_log_probs: [B, T, K].
        teacher_topk_log_probs: [B, T, K] at the same tokens.
        alpha: 0 is KL(teacher || student), 1 is KL(student || teacher), between is the generalised Jensen-Shannon
            divergence.
        add_tail: compare one more outcome, for all other tokens together; False renormalises over the K.

    Raises:
        ValueError: alpha is outside [0, 1].
    """
    config = SelfDistillationConfig(alpha=alpha)
    student = core.complete(student_topk_log_probs, add_tail)
    teacher = core.complete(teacher_topk_log_probs.detach(), add_tail)
    return core.divergence(student, teacher, config.alpha)


def apply_importance_sampling_correction(
    per_token_loss: Tensor, student_log_probs: Tensor, old_log_probs: Tensor | None, is_clip: float | None = 2.0
) -> Tensor:
    """Weight every token's loss by min(exp(student - old), is_clip), without gradient through the weight.

    Args:
        per_token_loss: [B, T].
        student_log_probs: [B, T] of the sampled tokens.
        old_log_probs: [B, T] of the policy that sampled. None: the loss is returned as it is.
        is_clip: upper bound of the ratio. None: the loss is returned as it is.
    """
    if old_log_probs is None or is_clip is None:
        return per_token_loss
    ratio = importance_ratio((student_log_probs - old_log_probs).detach())
    return per_token_loss * bounded_weight(ratio, is_clip)


def aggregate_loss(loss_mat: Tensor, response_mask: Tensor, self_distillation_mask: Tensor | None = None) -> Tensor:
    """Mean over the response tokens of rows with a target: a scalar, exactly 0 (with its graph) if there are none.

    Args:
        loss_mat: [B, T]; what stands outside of the mask is not read.
        response_mask: [B, T], 1 where the policy wrote the token; of any type.
        self_distillation_mask: [B], 1 where the row has a target. None: all have.
    """
    mask = _as_numbers(response_mask, loss_mat)
    if self_distillation_mask is not None:
        mask = mask * _as_numbers(self_distillation_mask, loss_mat)[:, None]
    return aggregate(loss_mat, mask, "token-mean", count_mask(mask), norm_divisor=1.0)


def compute_self_distillation_loss(
    student_log_probs: Tensor,
    teacher_log_probs: Tensor | None,
    response_mask: Tensor,
    student_topk_log_probs: Tensor | None = None,
    teacher_topk_log_probs: Tensor | None = None,
    alpha: float = 0.5,
    is_clip: float | None = 2.0,
    add_tail: bool = True,
    old_log_probs: Tensor | None = None,
    self_distillation_mask: Tensor | None = None,
    rollout_is_weights: Tensor | None = None,
) -> tuple[Tensor, dict[str, float]]:
    """The SDPO loss of a whole batch: mean over the response tokens of rows with a target.

    With top-k tensors distributions are compared. Without them only the sampled token is: that estimates
    KL(student || teacher) whatever alpha is, so `alpha` and `add_tail` have nothing to act on there.

    Args:
        student_log_probs: [B, T] of the sampled tokens.
        teacher_log_probs: [B, T] of the same tokens after the teacher's prompt; may be None beside top-k tensors.
        response_mask: [B, T], 1 where the policy wrote the token; of any type.
        student_topk_log_probs: [B, T, K] at the student's most likely tokens.
        teacher_topk_log_probs: [B, T, K] at the same tokens.
        alpha: as in `top_k_kl_divergence`.
        is_clip: upper bound of the importance ratio; None for no ratio.
        add_tail: as in `top_k_kl_divergence`.
        old_log_probs: [B, T] of the policy that sampled. None: the ratio is 1.
        self_distillation_mask: [B], 1 where the row has a target. None: all have.
        rollout_is_weights: [B, T] further weights, for a policy that another engine sampled from.

    Returns:
        The scalar loss (exactly 0, with its graph, when no token counts), and metrics: `sdpo/loss`; `sdpo/kl_mean`, the
        mean divergence without weights (the sampled path: its estimate); `sdpo/teacher_coverage`, the share of rows
        with a target.

    Raises:
        TypeError: there are neither top-k tensors nor `teacher_log_probs`.
        ValueError: one of the two top-k tensors is missing, or a number is outside of its range.
    """
    has_topk = student_topk_log_probs is not None or teacher_topk_log_probs is not None
    if teacher_log_probs is None and not has_topk:
        raise TypeError(
            "teacher_log_probs=None: the sampled-token loss compares it with student_log_probs; pass the teacher's"
            " log-probs of the sampled tokens, or student_topk_log_probs and teacher_topk_log_probs"
        )
    settings = {"alpha": alpha, "is_clip": is_clip, "distillation_add_tail": add_tail}
    config = SelfDistillationConfig(**settings)  # also refuses values that the path below does not use
    if old_log_probs is None:
        settings["is_clip"] = None
    if not has_topk:
        settings |= {"full_logit_distillation": False, "alpha": 1.0}
    config = SelfDistillationConfig(**settings, distillation_topk=_num_outcomes(student_topk_log_probs))
    mask = _as_numbers(response_mask, student_log_probs)
    if self_distillation_mask is None:
        rows = mask.new_ones(len(mask))
    else:
        rows = _as_numbers(self_distillation_mask, student_log_probs)
    loss, metrics = core.compute_self_distillation_loss(
        student_log_probs,
        # comparing distributions does not read it
        student_log_probs.detach() if teacher_log_probs is None else teacher_log_probs.detach(),
        mask,
        config,
        old_log_probs,
        student_topk_log_probs=student_topk_log_probs,
        teacher_topk_log_probs=teacher_topk_log_probs,
        self_distillation_mask=rows,
        rollout_is_weights=rollout_is_weights,
    )
    return loss, {
        "sdpo/loss": loss.item(),
        "sdpo/kl_mean": metrics.get("self_distillation/divergence", 0.0),  # absent where no token counts
        "sdpo/teacher_coverage": (rows > 0).double().mean().item() if len(rows) else 0.0,
    }


def _as_numbers(mask: Tensor, like: Tensor) -> Tensor:
    """A mask in the type that sums are kept in: TRL's are integers, and a float32 weight would blur a float64 loss."""
    return mask.to(device=like.device, dtype=accumulation_dtype(like.dtype))


def _num_outcomes(topk_log_probs: Tensor | None) -> int:
    """K; any number where there is no tensor, which the core then misses by name if it needs it."""
    return 1 if topk_log_probs is None else topk_log_probs.shape[-1]
