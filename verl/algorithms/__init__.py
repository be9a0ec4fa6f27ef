"""Losses and advantages: the ideas of training, on plain tensors.

`self_distillation_loss` is SDPO as a reader would write it down; `sdpo`, `policy_gradient` and `sft` are the algorithms
that `verl.registry.ALGORITHMS` names; the other files are the pieces they share. Nothing here but torch: a loss can be
imported into a notebook without Ray, vLLM or transformers.
"""

from verl.algorithms.base import Algorithm, LossInputs, Support, TokenDistribution
from verl.algorithms.self_distillation_loss import compute_self_distillation_loss
from verl.config.self_distillation import SelfDistillationConfig

__all__ = [
    "Algorithm",
    "LossInputs",
    "SelfDistillationConfig",
    "Support",
    "TokenDistribution",
    "compute_self_distillation_loss",
]
