"""SDPO (arXiv 2601.20802) for people who come from TRL: one process, a `GRPOConfig`, and `SDPOTrainer`.

    from sdpo_trainer import SDPOConfig, SDPOTrainer

Loss, reprompting and teacher rules are those of `verl`; Ray and vLLM are not needed. Names are resolved when they are
first used: configuration and text functions work without TRL, and `SDPOTrainer` builds on whatever `trl.GRPOTrainer` is
by then.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sdpo_trainer.config import SDPOConfig as SDPOConfig

_HOMES = {
    "config": ("SDPOConfig",),
    "distillation": (
        "add_tail_bucket",
        "aggregate_loss",
        "apply_importance_sampling_correction",
        "compute_self_distillation_loss",
        "top_k_kl_divergence",
    ),
    "reprompting": (
        "DEFAULT_FEEDBACK_TEMPLATE",
        "DEFAULT_REPROMPT_TEMPLATE",
        "DEFAULT_SOLUTION_TEMPLATE",
        "build_teacher_messages",
        "build_teacher_prompts",
        "compute_self_distillation_mask",
        "remove_thinking_tags",
        "select_demonstration",
    ),
    "teacher": (
        "EMATeacherCallback",
        "LORA_EMA_TEACHER_ADAPTER",
        "LoraEMATeacherCallback",
        "collect_lora_adapter_pairs",
        "ema_update",
        "ema_update_lora_adapters",
        "init_lora_ema_teacher",
    ),
    "trainer": ("SDPOTrainer",),
    "utils": ("check_unsloth_import_order",),
}
_HOME_OF = {name: module for module, names in _HOMES.items() for name in names}
__all__ = sorted(_HOME_OF)  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__} has no attribute {name}; it has {', '.join(__all__)}")
    try:
        return getattr(importlib.import_module(f"{__name__}.{_HOME_OF[name]}"), name)
    except ModuleNotFoundError as error:
        if error.name not in ("trl", "accelerate"):
            raise
        raise ImportError(f"{name} needs TRL: pip install -e '.[trl]'") from error


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
