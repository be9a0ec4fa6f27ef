"""`SDPOConfig`: what self-distillation adds to TRL's `GRPOConfig`.

Settings may be given under the names of three vocabularies (`vocabulary.py`) and are stored under one. What the shared
core knows about a setting (its rules, the default templates) is asked there: `core()` makes the core's own
configuration, in the constructor too, so that a wrong setting is answered where it is written. TRL is needed, and
imported, only by `from_trl`.
"""

from __future__ import annotations

import copy
import dataclasses
import warnings
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any, Literal

from sdpo_trainer.vocabulary import (
    DIAGNOSTICS,
    TEACHER_MODES,
    WITHOUT_EFFECT,
    canonical_settings,
    split_trl,
    unknown_keyword,
    warn_without_effect,
)
from verl.config.node import ConfigError, Fraction, NonNegative, Positive, Range, convert, hints
from verl.config.self_distillation import (
    FEEDBACK_TEMPLATE,
    REPROMPT_TEMPLATE,
    SOLUTION_TEMPLATE,
    SelfDistillationConfig,
)

if TYPE_CHECKING:
    from trl.trainer.grpo_config import GRPOConfig


@dataclass(frozen=True, init=False)
class SDPOConfig:
    """Settings of the self-distillation, by keyword; `dataclasses.replace` makes a changed copy.

    Raises:
        TypeError: an unknown keyword; the message names the nearest known one.
        ValueError: a wrong value, two names of one setting with different values, or settings that do not go together.
    """

    enabled: bool = True
    """False: plain GRPO."""
    alpha: Fraction = 0.5
    """0: forward KL; 1: reverse KL; between: the generalised Jensen-Shannon divergence."""
    full_logit_distillation: bool = True
    """Compare distributions over the vocabulary. False: sampled token only (needs alpha 1)."""
    distillation_topk: Annotated[int, Range(low=1)] | None = 100
    """Number of the student's most likely tokens compared; None is the whole vocabulary."""
    distillation_add_tail: bool = True
    """Put the probability outside the top-k into one more bucket; False renormalises over the k entries."""
    is_clip: Annotated[float, Range(above=0)] | None = 2.0
    """Upper bound of the importance ratio; None switches the ratio off."""
    is_coef: Fraction | None = None
    """Share of the correction: weight = 1 + is_coef (ratio - 1). None is 1, the whole of it; 0 is none."""
    teacher_mode: Literal["ema", "lora_ema", "frozen", "copy", "trust_region"] = "ema"
    """What the teacher is; `fixed` and `base` mean frozen, `live` and `refreshed` mean copy."""
    teacher_update_rate: Fraction = 0.05
    """T <- (1 - rate) T + rate S; for trust_region the student's share of the logits."""
    teacher_update_every: Positive = 1
    """Consumed rollout batches (not micro-steps) between two updates of the teacher."""
    use_successful_as_teacher: bool = True
    """Show successes of the group as demonstrations. False: feedback only."""
    success_reward_threshold: float = 1.0
    """A completion is a success when its reward reaches this."""
    dont_reprompt_on_self_success: bool = True
    """Never show a completion its own text as the demonstration."""
    remove_thinking_from_demonstration: bool = True
    """Delete closed blocks of `thinking_tag` from demonstrations."""
    thinking_tag: str | None = "<think>"
    """Opening tag of such a block, the closing one follows from it; None or "" deletes nothing."""
    include_environment_feedback: bool = True
    """Show what the reward functions said about the completion."""
    environment_feedback_only_without_solution: bool = True
    """Use feedback only where there is no demonstration."""
    max_reprompt_length: Positive = 10240
    """Longest teacher prompt, in tokens."""
    reprompt_truncation: Literal["left", "right", "error"] = "right"
    """Which end of a demonstration or feedback is cut when the teacher prompt is too long."""
    apply_chat_template_kwargs: dict[str, Any] = field(default_factory=dict)
    """Arguments of the chat template for teacher prompts, e.g. enable_thinking."""
    reprompt_template: str = REPROMPT_TEMPLATE
    solution_template: str = SOLUTION_TEMPLATE
    feedback_template: str = FEEDBACK_TEMPLATE
    distillation_weight: Fraction = 1.0
    """w in (1 - w) GRPO + w SDPO."""
    rollout_is_threshold: Annotated[float, Range(above=0)] | None = 2.0
    """Upper bound of the token weight trainer against vLLM, where TRL returned the engine's log-probs; None: off."""
    logits_chunk_tokens: Positive = 1024
    """Completion tokens whose logits exist at one time."""
    on_reward_error: Literal["raise", "zero"] = "raise"
    """What a reward function that raises does: stop the run, or count as 0 without feedback."""
    allow_fresh_teacher: bool = False
    """Resume with a new teacher when the checkpoint has none that fits."""
    lora_ema_exact: bool = False
    """Average the products of the adapters, not the factors: exact, and of full rank (small models)."""
    diagnostics_warning_interval: Annotated[int, Range(low=0)] = 10
    """TRL's key, no part of `to_dict`: idle steps before a warning, and between two; 0: no warnings."""
    diagnostics_flat_tolerance: NonNegative = 1e-8
    """TRL's key, no part of `to_dict`: rewards with a smaller standard deviation are flat."""

    def __init__(self, **keys: Any) -> None:
        fields = {entry.name: entry for entry in dataclasses.fields(self)}
        types = hints(type(self))
        given: dict[str, tuple[str, Any]] = {}  # setting: name it was given under, value
        for name, value in keys.items():
            if name in WITHOUT_EFFECT:
                continue
            for setting, meant in canonical_settings(name, value).items():
                if setting not in fields:
                    raise unknown_keyword(name, [known for known in fields if known not in DIAGNOSTICS])
                checked = _checked(setting, types[setting], meant, name)
                other, first = given.setdefault(setting, (name, checked))
                if first != checked:
                    raise ValueError(
                        f"{other}={keys[other]!r} and {name}={value!r} are names of one setting, {setting}, and differ;"
                        " give only one of them"
                    )
        for name, entry in fields.items():
            factory = entry.default_factory
            default = entry.default if factory is dataclasses.MISSING else factory()
            object.__setattr__(self, name, given[name][1] if name in given else default)
        self.core()  # the rules of the core
        warn_without_effect(keys, stacklevel=2)
        for name in DIAGNOSTICS:
            if name in given and given[name][1] != fields[name].default:
                warnings.warn(
                    f"SDPOConfig: {name}={keys[name]!r} is TRL's; it is kept, and decides about the warnings of"
                    " SDPOTrainer.",
                    UserWarning,
                    stacklevel=2,
                )

    def to_dict(self) -> dict[str, Any]:
        """All settings under their canonical names; `SDPOConfig(**config.to_dict())` makes them again."""
        return {
            entry.name: copy.deepcopy(getattr(self, entry.name))
            for entry in dataclasses.fields(self)
            if entry.name not in DIAGNOSTICS
        }

    def core(self) -> SelfDistillationConfig:
        """The settings that the shared core reads, as its own configuration.

        Its teacher, `grpo_lambda` and other keys stay at their defaults: the trainer decides about these.
        Raises ValueError, with our names, for settings that do not go together or templates that cannot be filled.
        """
        shared = {entry.name for entry in dataclasses.fields(SelfDistillationConfig)}
        settings = {name: value for name, value in self.to_dict().items() if name in shared}
        del settings["teacher_update_rate"]  # also the frozen teacher's, which the core calls rate 0
        settings |= {
            "is_coef": 1.0 if self.is_coef is None else self.is_coef,
            "max_reprompt_len": self.max_reprompt_length,
            "demonstration_choice": "first" if self.use_successful_as_teacher else "none",
        }
        try:
            return SelfDistillationConfig(**settings)
        except ConfigError as error:
            told = [problem.replace("null or empty", 'None or ""') for problem in error.problems]
            raise ValueError("\n".join(told)) from error

    @classmethod
    def from_trl(cls, trl_cfg: Any) -> tuple[GRPOConfig, SDPOConfig]:
        """Split a `trl.experimental.sdpo.SDPOConfig` into TRL's `GRPOConfig` and ours.

        Its fields are taken as they are, so TRL's defaults stay (sampled token, alpha 1, no tail, no feedback, thinking
        shown), and so does its way to cut teacher prompts (left). `topk_logits` without a number means our default.
        Keys that do nothing here are told in a warning when they did something there.

        Raises:
            ImportError: TRL is not installed, or too old to have that class.
            TypeError: `trl_cfg` is something else, or has a field that neither configuration knows.
            ValueError: as the constructors.
        """
        grpo_config, settings = split_trl(trl_cfg)
        return grpo_config, cls(**settings)


def _checked(setting: str, hint: Any, value: Any, name: str) -> Any:
    """The value of a setting in its own type. Raises ValueError naming the setting and the name it was given under."""
    converted, problem = convert(hint, value)
    if problem is None and isinstance(value, str) != isinstance(converted, str):
        problem = "must be a text" if isinstance(converted, str) else "must be a number, not a text"
    if problem is None:
        return converted
    if setting == "teacher_mode":
        problem += f", or {', '.join(TEACHER_MODES)}"
    origin = "" if name == setting else f" (given as {name})"
    raise ValueError(f"{setting}={value!r}{origin}: {_in_python_words(problem)}")


def _in_python_words(problem: str) -> str:
    """A problem as the core tells it, which speaks of YAML."""
    return problem.replace("or null", "or None").replace("true or false", "True or False")


__all__ = ["SDPOConfig"]
