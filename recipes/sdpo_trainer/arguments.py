"""TRL's `GRPOConfig` as the trainer uses it: a copy of the caller's, and the periods that follow from it."""

from __future__ import annotations

import copy
import dataclasses
import logging
import math
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from trl.trainer.grpo_config import GRPOConfig

    from sdpo_trainer.config import SDPOConfig

logger = logging.getLogger(__name__)


def generation_period(args: GRPOConfig) -> int:
    """Micro-steps for which a rollout batch is used."""
    return (args.steps_per_generation or 1) * args.num_iterations


def teacher_period(args: GRPOConfig, config: SDPOConfig) -> int:
    """Optimizer steps between two updates of the teacher: as many as `teacher_update_every` rollout batches serve.

    Raises:
        ValueError: rollout batches end in the middle of an optimizer step.
    """
    used, accumulated = generation_period(args), args.gradient_accumulation_steps
    if used % accumulated and accumulated % used:
        raise ValueError(
            f"steps_per_generation={args.steps_per_generation} times num_iterations={args.num_iterations} is {used}"
            f" micro-steps for a rollout batch, and gradient_accumulation_steps={accumulated} for an optimizer step: a"
            " batch would end within a step. Make one a multiple of the other, as it is by default."
        )
    return max(1, math.ceil(config.teacher_update_every * used / accumulated))


POLICY_LOSS = (
    "loss_type",
    "epsilon",
    "epsilon_high",
    "delta",
    "scale_rewards",
    "importance_sampling_level",
    "entropy_coef",
    "use_adaptive_entropy",
    "top_entropy_quantile",
    "off_policy_mask_threshold",
)
"""Settings of the GRPO loss alone."""


def own_arguments(args: GRPOConfig | None, config: SDPOConfig | None) -> Any:
    """A copy that TRL may write into. TypeError for another class.

    Args:
        args: the caller's.
        config: of SDPO; None while it is not enabled. With it `beta` is 0, and settings that then do nothing are named.
    """
    if args is None:
        return None
    if not hasattr(args, "steps_per_generation") or hasattr(args, "distillation_alpha"):
        raise TypeError(
            f"args is a {type(args).__module__}.{type(args).__name__}; pass a trl.GRPOConfig, and the settings of SDPO"
            " as sdpo_config (SDPOConfig.from_trl splits a configuration of TRL's SDPOTrainer into the two)"
        )
    own = copy.copy(args)
    for name in ("accelerator_config", "gradient_checkpointing_kwargs", "model_init_kwargs"):
        setattr(own, name, copy.copy(getattr(args, name)))
    if config is None:
        return own
    unused = [f"{name}={getattr(own, name)}" for name in POLICY_LOSS if _is_set(own, name)]
    if unused and config.distillation_weight == 1:
        logger.warning(
            "%s: no effect while distillation_weight is 1, since no GRPO loss is computed.", ", ".join(unused)
        )
    if own.beta != 0:
        logger.warning(
            "beta=%g is taken as 0: with SDPO the teacher keeps the policy close to where it was, and no KL to a third"
            " model is computed.",
            own.beta,
        )
        own.beta = 0.0
    return own


def _is_set(args: GRPOConfig, name: str) -> bool:
    """Whether a setting is there and differs from its default."""
    defaults = {field.name: field.default for field in dataclasses.fields(args)}
    return name in defaults and getattr(args, name) != defaults[name]
