"""What any policy loss may add: an entropy bonus and a KL to the frozen reference."""

from __future__ import annotations

from torch import Tensor

from verl.algorithms.base import LossInputs
from verl.algorithms.kl import kl_estimate
from verl.algorithms.metrics import token_metrics
from verl.config.actor import ActorConfig
from verl.protocol import Metrics


def regularization(inputs: LossInputs, actor: ActorConfig) -> tuple[Tensor, Metrics]:
    """`kl_loss_coef` * KL - `entropy_coeff` * entropy over all response tokens; a scalar 0 when neither is wanted.

    Metrics: `actor/entropy` whenever it was computed, `actor/kl_loss` (before its coefficient) and `actor/kl_coef`.
    Raises ValueError when something needed is missing.
    """
    student = inputs.student
    loss = student.log_probs.new_zeros(())
    values: dict[str, Tensor] = {}
    if student.entropy is not None:
        values["actor/entropy"] = student.entropy
    if actor.entropy_coeff != 0:
        if student.entropy is None:
            raise ValueError(f"entropy_coeff={actor.entropy_coeff}: the student's entropy was not computed")
        loss = loss - actor.entropy_coeff * inputs.aggregate_response(student.entropy, actor)
    if actor.use_kl_loss:
        if inputs.ref_log_probs is None:
            raise ValueError("use_kl_loss=True: the batch has no ref_log_probs; compute them with the reference first")
        kl = kl_estimate(student.log_probs, inputs.ref_log_probs, actor.kl_loss_type)
        loss = loss + actor.kl_loss_coef * inputs.aggregate_response(kl, actor)
        values["actor/kl_loss"] = kl
    metrics = token_metrics(values, inputs.response_mask) if values else {}
    if actor.use_kl_loss:
        metrics["actor/kl_coef"] = (actor.kl_loss_coef, 1.0)
    return loss, metrics
