"""The names under which a setting of `SDPOConfig` may be given, and what becomes of the names that are no setting.

Three vocabularies are in use: that of the published package (canonical: only these names are stored), that of its
README, and that of TRL's experimental `SDPOConfig`. They are brought together here, so that `config.py` knows one
name for each setting.
"""

from __future__ import annotations

import dataclasses
import difflib
import warnings
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from trl.trainer.grpo_config import GRPOConfig

CANONICAL_NAMES = {
    "distillation_alpha": "alpha",
    "distillation_is_clip": "is_clip",
    "teacher_model_kind": "teacher_mode",
    "ema_tau": "teacher_update_rate",
    "ema_update_every": "teacher_update_every",
    "teacher_sync_steps": "teacher_update_every",
    "reprompt_teacher": "use_successful_as_teacher",
    "max_reprompt_len": "max_reprompt_length",
    "chat_template_kwargs": "apply_chat_template_kwargs",
}
"""Other name of a setting: its canonical name."""

TEACHER_MODES = {"fixed": "frozen", "base": "frozen", "live": "copy", "refreshed": "copy"}
"""Other word for a teacher: the canonical one."""

DISTILLATION_MODES: dict[str, dict[str, Any]] = {
    "sampled_token": {"full_logit_distillation": False},
    "full_logits": {"full_logit_distillation": True, "distillation_topk": None},
    "topk_logits": {"full_logit_distillation": True},
}
"""TRL's `distillation_mode` says two settings in one word; `topk_logits` leaves the number of tokens as given."""

DIAGNOSTICS = ("diagnostics_warning_interval", "diagnostics_flat_tolerance")
"""TRL's keys about its warnings; they steer ours."""

WITHOUT_EFFECT = {
    "beta": "the trainer runs with beta 0, because the teacher already regularises; leave it out"
    " (enabled=False is plain GRPO, with beta of GRPOConfig)",
    "max_prompt_length": "prompts are not cut; remove long ones from the data set, or bound the teacher's prompt with"
    " max_reprompt_length",
    "use_teacher_server": "the teacher always runs in the trainer's process; leave it out",
    "vllm_model_impl": "give it to GRPOConfig, which decides about vLLM",
}
"""TRL's keys that are accepted and do nothing here: what to use instead."""


def canonical_settings(name: str, value: Any) -> dict[str, Any]:
    """The settings that one keyword stands for, under their canonical names; a name that is nobody's stays.

    Raises ValueError for an unknown `distillation_mode`.
    """
    if name == "distillation_mode":
        if not isinstance(value, str) or value not in DISTILLATION_MODES:
            raise ValueError(f"distillation_mode={value!r}: must be one of {', '.join(DISTILLATION_MODES)}")
        return DISTILLATION_MODES[value]
    name = CANONICAL_NAMES.get(name, name)
    if name == "teacher_mode" and isinstance(value, str):
        value = TEACHER_MODES.get(value, value)
    if name == "apply_chat_template_kwargs" and value is None:
        value = {}  # TRL's word for none
    return {name: value}


def unknown_keyword(name: str, known: Iterable[str]) -> TypeError:
    """The answer to a keyword that is no setting: the nearest name that is one."""
    names = [*known, *CANONICAL_NAMES, "distillation_mode"]
    nearest = difflib.get_close_matches(name, names, n=1, cutoff=0.0)[0]
    return TypeError(
        f"SDPOConfig has no setting {name!r}; the nearest is {nearest!r}. Settings of sampling, batches and the"
        " optimizer belong to GRPOConfig"
    )


def warn_without_effect(given: Mapping[str, Any], stacklevel: int) -> None:
    """Tell what each accepted key that does nothing here is to be replaced by."""
    for name in given:
        if name in WITHOUT_EFFECT:
            warnings.warn(
                f"SDPOConfig: {name}={given[name]!r} has no effect here: {WITHOUT_EFFECT[name]}.",
                UserWarning,
                stacklevel=stacklevel + 1,
            )


def split_trl(trl_cfg: Any) -> tuple[GRPOConfig, dict[str, Any]]:
    """TRL's `GRPOConfig` and our keywords, from a `trl.experimental.sdpo.SDPOConfig` (see `SDPOConfig.from_trl`)."""
    try:
        import trl  # not `from trl import`: Unsloth may have put a class of its own there
        from trl.experimental.sdpo import SDPOConfig as TRLConfig

        grpo_class: type[GRPOConfig] = trl.GRPOConfig  # pyright: ignore[reportPrivateImportUsage]
    except ImportError as error:
        raise ImportError("SDPOConfig.from_trl needs TRL; install it with: pip install -e '.[trl]'") from error
    if not isinstance(trl_cfg, TRLConfig):
        raise TypeError(
            f"from_trl got a {type(trl_cfg).__name__}; it splits a trl.experimental.sdpo.SDPOConfig. Give a GRPOConfig"
            " to SDPOTrainer as args, and the settings of SDPO to SDPOConfig(...)"
        )
    values = {entry.name: getattr(trl_cfg, entry.name) for entry in dataclasses.fields(trl_cfg) if entry.init}
    known = {entry.name for entry in dataclasses.fields(grpo_class) if entry.init}
    grpo = {name: value for name, value in values.items() if name in known}
    grpo["generation_batch_size"] = None  # TRL has derived it from steps_per_generation, and accepts only one of them
    ours = {name: value for name, value in values.items() if name not in known}
    ours |= {"chat_template_kwargs": trl_cfg.chat_template_kwargs, "reprompt_truncation": "left"}
    if trl_cfg.beta:
        ours["beta"] = trl_cfg.beta
    without_meaning = {
        "distillation_topk": trl_cfg.distillation_topk is None and trl_cfg.distillation_mode == "topk_logits",
        "use_teacher_server": not trl_cfg.use_teacher_server,
        "max_prompt_length": trl_cfg.max_prompt_length is None,
    }
    return grpo_class(**grpo), {name: value for name, value in ours.items() if not without_meaning.get(name)}
