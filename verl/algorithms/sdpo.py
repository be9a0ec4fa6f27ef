"""SDPO as an algorithm of the trainer (arXiv 2601.20802): self-distillation of the taught rows, and a GRPO share.

The formula stands in `self_distillation_loss`; here is what surrounds it in training: where the old log-probs come
from, weights for the engine's mismatch, the GRPO share, the two anchors, and diagnostics.
"""

from __future__ import annotations

from torch import Tensor

from verl.algorithms.base import Algorithm, LossInputs, Support, TokenDistribution
from verl.algorithms.kl import kl_estimate
from verl.algorithms.metrics import mini_batch_metrics, token_metrics
from verl.algorithms.policy_gradient import ppo_token_losses, require_advantages
from verl.algorithms.regularizers import regularization
from verl.algorithms.rollout_correction import behaviour_log_probs, rollout_weights
from verl.algorithms.self_distillation_loss import TokenLosses, check, credit_of, loss_metrics, token_losses
from verl.config.actor import ActorConfig
from verl.config.root import AlgorithmConfig
from verl.protocol import Metrics


class SDPO(Algorithm):
    """`loss_mode=sdpo`: lambda GRPO + (1 - lambda) self-distillation.

    Each part is divided by its own count: GRPO by all response tokens, self-distillation by those of rows with a
    target, so lambda 0 and 1 are exactly the two pure losses. Rows without a target keep the GRPO part; rows that are
    `Row.is_routed` have GRPO with all its weight, as if lambda were 1 for them. A row's self-distillation counts
    `Row.distillation_weight`, which the divisor does not know: weights below 1 make the loss smaller.
    """

    def __init__(self, actor: ActorConfig, algorithm: AlgorithmConfig) -> None:
        super().__init__(actor, algorithm)
        self.config = actor.self_distillation
        check(self.config)
        share = self.config.grpo_lambda
        self.needs_teacher = share < 1
        self.routes = self.needs_teacher and self.config.correct_samples == "grpo"
        self.needs_advantages = share > 0 or self.routes
        if self.needs_teacher and self.config.teacher_anchor_coef > 0:
            self.anchored_fraction = self.config.teacher_anchor_fraction
        holds_all = actor.entropy_coeff != 0 or actor.use_kl_loss or self.config.kl_anchor_coef > 0
        self.needs_untaught_rows = self.needs_advantages or holds_all
        is_corrected = algorithm.rollout_correction.rollout_is is not None
        self.needs_old_log_probs = self.needs_advantages or self.config.is_clip is not None or is_corrected

    @property
    def needs_reference(self) -> bool:
        return super().needs_reference or self.config.kl_anchor_coef > 0

    @property
    def couples_tokens(self) -> bool:
        return super().couples_tokens or (self.needs_teacher and credit_of(self.config) == "sequence")

    @property
    def support(self) -> Support:
        by_logit = self.needs_teacher and credit_of(self.config) == "logit"
        is_full = by_logit and self.config.distillation_topk is None
        return Support(
            topk=self.config.distillation_topk if by_logit else None,
            divergence=(self.config.alpha, self.config.normalize_divergence) if is_full else None,
            needs_entropy=True,
            needs_entropy_grad=self.actor.entropy_coeff != 0,
        )

    def loss(self, inputs: LossInputs) -> tuple[Tensor, Metrics]:
        correction = self.algorithm.rollout_correction
        old = behaviour_log_probs(inputs, correction)
        weights, metrics = rollout_weights(inputs, old, correction)
        share = self.config.grpo_lambda
        mask, totals = inputs.taught_mask, inputs.totals.taught
        policy_loss = inputs.student.log_probs.new_zeros(())
        added, added_metrics = regularization(inputs, self.actor)
        metrics |= added_metrics
        if self.config.kl_anchor_coef > 0:
            held, held_metrics = self._kl_anchor(inputs)
            added, metrics = added + held, metrics | held_metrics
        if self.needs_teacher:
            per_token, distillation_metrics = self._distillation(inputs, old, weights)
            losses = per_token.losses
            losses = losses if inputs.distillation_weights is None else losses * inputs.distillation_weights
            policy_loss = policy_loss + (1 - share) * inputs.aggregate_taught(losses, self.actor)
            metrics |= distillation_metrics
            if inputs.anchor_mask is not None:
                anchor, anchor_metrics = self._anchor(inputs, inputs.anchor_mask, per_token.divergence)
                added, metrics = added + anchor, metrics | anchor_metrics
            metrics |= mini_batch_metrics({"self_distillation/target_token_count": mask.sum()}, mask, totals)
        if self.needs_advantages:
            losses, values = ppo_token_losses(inputs.student.log_probs, old, require_advantages(inputs), self.actor)
            losses = losses if weights is None else losses * weights
            shares = share if inputs.routed_mask is None else share + (1 - share) * inputs.routed_mask
            policy_loss = policy_loss + inputs.aggregate_response(shares * losses, self.actor)
            metrics |= token_metrics(values, inputs.response_mask)
            mask, totals = inputs.response_mask, inputs.totals.response
        metrics |= mini_batch_metrics({"actor/pg_loss": policy_loss}, mask, totals)
        return policy_loss + added, metrics

    def _kl_anchor(self, inputs: LossInputs) -> tuple[Tensor, Metrics]:
        """kl_anchor_coef * KL(student || frozen model) on the plain prompts, over all response tokens.

        Estimated from the sampled tokens as `actor.kl_loss_type` says (`verl.algorithms.kl`).
        """
        if inputs.ref_log_probs is None:
            raise ValueError("kl_anchor_coef: the batch has no ref_log_probs; compute them with the frozen model first")
        kl = kl_estimate(inputs.student.log_probs, inputs.ref_log_probs, self.actor.kl_loss_type)
        loss = self.config.kl_anchor_coef * inputs.aggregate_response(kl, self.actor)
        return loss, token_metrics({"self_distillation/kl_anchor": kl}, inputs.response_mask)

    def _anchor(self, inputs: LossInputs, mask: Tensor, divergence: Tensor) -> tuple[Tensor, Metrics]:
        """What keeps the student able to read the teacher's prompts, and with it a teacher that follows the student.

        teacher_anchor_coef * D(S(.|c, y<t), T(.|c, y<t)), c the teacher's prompt: the divergence of the loss itself,
        without its weights (the old log-probs of a response are those on the plain prompt).
        """
        loss = self.config.teacher_anchor_coef * inputs.aggregate_anchored(divergence, self.actor)
        metrics = token_metrics({"self_distillation/anchor_divergence": divergence}, mask)
        values = {"self_distillation/anchor_token_count": mask.sum()}
        return loss, metrics | mini_batch_metrics(values, mask, inputs.totals.anchored)

    def _distillation(self, inputs: LossInputs, old: Tensor, weights: Tensor | None) -> tuple[TokenLosses, Metrics]:
        """Per-token losses and diagnostics over the taught tokens."""
        student, teacher = inputs.student, inputs.teacher
        if teacher is None:
            if bool(inputs.taught_mask.any()):
                raise ValueError("self_distillation_mask marks rows with a target, but teacher is None")
            # Any value will do, since nothing is taught; the graph stays whole for the collectives of the backward.
            return TokenLosses(student.log_probs, student.log_probs, None), {}
        per_token = token_losses(
            student.log_probs,
            teacher.log_probs,
            inputs.response_mask,
            self.config,
            old,
            student_topk_log_probs=student.topk_log_probs,
            teacher_topk_log_probs=teacher.topk_log_probs,
            rollout_is_weights=weights,
            full_divergence=inputs.divergence,
        )
        metrics = loss_metrics(per_token, inputs.taught_mask, self.config)
        values = _diagnostics(student, teacher)
        if inputs.agreement is not None:
            values["self_distillation/argmax_agreement"] = inputs.agreement
        return per_token, metrics | (token_metrics(values, inputs.taught_mask) if values else {})


def _diagnostics(student: TokenDistribution, teacher: TokenDistribution) -> dict[str, Tensor]:
    """Per-token values [B, T] that tell how teacher and student differ, of what was computed of them."""
    values: dict[str, Tensor] = {}
    for name, model in (("student", student), ("teacher", teacher)):
        if model.entropy is not None:
            values[f"self_distillation/{name}_entropy"] = model.entropy
        if model.topk_log_probs is not None:
            values[f"self_distillation/topk_mass_{name}"] = model.topk_log_probs.detach().exp().sum(dim=-1)
    return values
