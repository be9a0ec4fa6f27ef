"""What `loss_mode=sdpo` needs to know: the divergence, the teacher and the reprompt.

The defaults below are the only ones; presets hold choices. Reference: arXiv 2601.20802.
"""

from __future__ import annotations

import os
import string
import warnings
from dataclasses import dataclass
from typing import Annotated, Literal

from verl.config.node import Fraction, Node, NonNegative, Positive, Range

REPROMPT_TEMPLATE = "{prompt}{solution}{feedback}\n\nCorrectly solve the original question."
SOLUTION_TEMPLATE = "\nCorrect solution:\n\n{successful_previous_attempt}"
FEEDBACK_TEMPLATE = "\nThe following is feedback from your unsuccessful earlier attempt:\n\n{feedback_raw}"

TEMPLATE_PLACEHOLDERS: dict[str, tuple[set[str], set[str]]] = {
    # template: (needed, optional)
    "reprompt_template": ({"prompt", "solution", "feedback"}, {"attempt"}),
    "solution_template": ({"successful_previous_attempt"}, set()),
    "feedback_template": ({"feedback_raw"}, set()),
}


@dataclass(frozen=True)
class SelfDistillationConfig(Node):
    """`actor_rollout_ref.actor.self_distillation.*`"""

    full_logit_distillation: bool = True
    """Compare distributions over the vocabulary. False: sampled token only (needs alpha 1)."""
    distillation_topk: Annotated[int, Range(low=1)] | None = 100
    """Number of the student's most likely tokens compared; null is the whole vocabulary."""
    distillation_add_tail: bool = True
    """Put the probability outside the top-k into one more bucket; False renormalises over the k entries."""
    alpha: Fraction = 0.5
    """0: KL(teacher||student); 1: KL(student||teacher); between: the generalised Jensen-Shannon divergence, which is
    not normalised: it tends to 0 (linearly) at both ends, so 0.001 is about a thousand times weaker than 0."""
    normalize_divergence: bool = False
    """Divide the divergence for 0 < alpha < 1 by alpha (1 - alpha), which removes that fading at the ends."""
    is_clip: Annotated[float, Range(above=0)] | None = 2.0
    """Upper bound of the importance ratio exp(student - old) of the sampled token; null switches the ratio off."""
    is_coef: Fraction = 1.0
    """Share of that correction: a token's loss is weighted by 1 + is_coef (min(ratio, is_clip) - 1)."""
    advantage_clip: Annotated[float, Range(above=0)] | None = None
    """Upper bound of the per-token advantage log t - log s (credit `token` and `sequence`); the paper's 5.0 in TTT."""
    credit: Literal["logit", "token", "sequence"] = "logit"
    """Granularity: the divergence itself, the sampled token's advantage, or its mean over the sequence."""
    grpo_lambda: Fraction = 0.0
    """Share of the GRPO loss: lambda GRPO + (1 - lambda) SDPO; the paper uses 0.9 for weak models."""

    success_reward_threshold: float = 0.5
    """A response is a success, and may be demonstrated, when its score reaches this."""
    correct_samples: Literal["distill", "mask", "grpo"] = "distill"
    """What is done with samples that are a success already: `distill` them like the others, leave them out of the
    distillation (`mask`), or learn them by GRPO alone, with all its weight whatever `grpo_lambda` says (`grpo`). Late
    collapse was traced to distilling what is right."""
    pass_rate_weight: bool = False
    """Weigh a sample's distillation by sqrt(p (1 - p)), p its group's share of successes: most (1/2) where half are,
    and not at all where all or none are, feedback or not. The divisor stays the number of tokens that are taught, so
    the loss becomes smaller (AdamW does not mind; a GRPO share or an anchor beside it weighs more)."""
    demonstration_choice: Literal["first", "random", "shortest", "none"] = "first"
    """Which success of the group is shown (random: seeded by step and sample; none: feedback alone teaches)."""
    dont_reprompt_on_self_success: bool = True
    """Never show a response its own text as the demonstration."""
    remove_thinking_from_demonstration: bool = True
    """Delete closed thinking blocks from demonstrations and attempts."""
    thinking_tag: str | None = "<think>"
    """Opening tag of these blocks; the closing one has a slash after the first character, </think>. null or empty:
    nothing is deleted."""
    include_environment_feedback: bool = True
    """Show the environment's feedback on the response."""
    environment_feedback_only_without_solution: bool = True
    """Use feedback only where there is no demonstration."""

    teacher_regularization: Literal["ema", "trust-region"] = "ema"
    """`ema`: averaged weights; `trust-region`: logits mixed from the initial and the live policy."""
    teacher_update_rate: Fraction = 0.05
    """EMA rate or mixing share of the live policy: 0 is frozen, 1 is the policy after the previous update."""
    ema_update_rate: Fraction | None = None
    """Old name of `teacher_update_rate`; still accepted, with a warning."""
    teacher_anchor_coef: NonNegative = 0.0
    """Weight of the self-anchor: on some taught samples the student also runs on the teacher's prompt, and is held to
    the teacher there by the loss's own divergence. So it does not forget to read such prompts, and with it a teacher
    that follows it (ema with a rate, trust-region). 0.3 is tried; 0: off, at no cost (docs/stability.md)."""
    teacher_anchor_fraction: Annotated[float, Range(above=0, high=1)] = 0.25
    """Share of an update's taught samples that the self-anchor takes, chosen at random (at least one)."""
    kl_anchor_coef: NonNegative = 0.0
    """Weight of a KL to a frozen model on the plain prompts, over all response tokens, as `actor.kl_loss_type`
    estimates it. The model is `ref.model.path`, or the initial policy: the teacher itself where its weights stand still
    (rate 0, trust-region), otherwise a third copy of the weights, in the type of the forward (`teacher_cpu_offload`
    keeps it in host memory). Costs a forward of that model; 0: off."""
    demo_log_prob_freq: Annotated[int, Range(low=0)] = 10
    """Every so many steps measure, teacher-forced, whether student and teacher still follow a shown demonstration, and
    the teacher feedback: `self_distillation/{student,teacher}_demo_log_prob`, `.../feedback_effect`. 0: never."""
    teacher_cpu_offload: bool = False
    """Keep the teacher's weights in host memory between uses."""

    max_reprompt_len: Positive = 10240
    """Longest teacher prompt, in tokens."""
    reprompt_truncation: Literal["left", "right", "error"] = "right"
    """Which end of a demonstration or feedback is cut when the teacher prompt is too long; the template never is."""
    reprompt_template: str = REPROMPT_TEMPLATE
    """Teacher's user message; placeholders {prompt} {solution} {feedback}, optionally {attempt}. `file:<path>` reads a
    file."""
    solution_template: str = SOLUTION_TEMPLATE
    """Section for the demonstration; placeholder {successful_previous_attempt}."""
    feedback_template: str = FEEDBACK_TEMPLATE
    """Section for the feedback; placeholder {feedback_raw}."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.ema_update_rate is not None:
            warnings.warn("ema_update_rate is the old name of teacher_update_rate", DeprecationWarning, stacklevel=3)
            object.__setattr__(self, "teacher_update_rate", self.ema_update_rate)
            object.__setattr__(self, "ema_update_rate", None)

    def problems(self) -> list[str]:
        problems: list[str] = []
        default = type(self).teacher_update_rate
        if self.ema_update_rate is not None and self.teacher_update_rate not in (default, self.ema_update_rate):
            problems.append(
                f"ema_update_rate={self.ema_update_rate}: is the old name of teacher_update_rate, which is given as"
                f" {self.teacher_update_rate}; give only teacher_update_rate"
            )
        if not self.full_logit_distillation and self.alpha != 1.0:
            problems.append(
                f"alpha={self.alpha}: the sampled-token loss (full_logit_distillation=False) exists only for alpha=1.0;"
                " set alpha=1.0 or full_logit_distillation=True"
            )
        if self.credit != "logit" and self.full_logit_distillation and self.alpha != 1.0:
            problems.append(
                f"alpha={self.alpha}: credit={self.credit} estimates KL(student || teacher) from the sampled tokens, so"
                " it exists only for alpha=1.0; set alpha=1.0 or credit=logit"
            )
        if self.advantage_clip is not None and self.credit == "logit" and self.full_logit_distillation:
            problems.append(
                f"advantage_clip={self.advantage_clip}: bounds the advantage of sampled tokens, and credit=logit has"
                " none; set credit to token or sequence, or advantage_clip to null"
            )
        if self.teacher_anchor_coef > 0 and (self.credit != "logit" or not self.full_logit_distillation):
            problems.append(
                f"teacher_anchor_coef={self.teacher_anchor_coef}: the self-anchor compares distributions, because the"
                f" response was not written on the teacher's prompt; with credit={self.credit} and"
                f" full_logit_distillation={self.full_logit_distillation} there is only the sampled token. Set"
                " credit=logit and full_logit_distillation=True, or the coefficient to 0"
            )
        if problem := tag_problem(self.thinking_tag):
            problems.append(f"thinking_tag={self.thinking_tag}: {problem}")
        for name, (needed, optional) in TEMPLATE_PLACEHOLDERS.items():
            try:
                problem = template_problem(read_template(getattr(self, name)), needed, optional)
            except (OSError, UnicodeDecodeError) as error:
                problem = f"the file cannot be read ({error})"
            if problem:
                problems.append(f"{name}={getattr(self, name)!r}: {problem}")
        return problems


def read_template(template: str) -> str:
    """The template's text; `file:<path>` is read from that file (OSError or UnicodeDecodeError if it cannot be)."""
    if not template.startswith("file:"):
        return template
    with open(os.path.expanduser(template.removeprefix("file:")), encoding="utf-8") as file:
        return file.read()


def tag_problem(tag: str | None) -> str | None:
    """What is wrong with an opening tag, for which a closing one must exist; None when it is right, or when there is
    none."""
    if not tag:
        return None
    has_brackets = len(tag) > 2 and not tag[0].isalnum() and not tag[-1].isalnum()
    if has_brackets and tag[1] != "/" and not any(map(str.isspace, tag)):
        return None
    return "must be an opening tag such as <think> or [THINK], without spaces; null or empty deletes nothing"


def template_problem(template: str, needed: set[str], optional: set[str]) -> str | None:
    """What is wrong with a template's placeholders; None when they are right."""
    known = ", ".join(f"{{{name}}}" for name in sorted(needed | optional))
    try:
        fields = [field[1:] for field in string.Formatter().parse(template) if field[1] is not None]
    except ValueError as error:
        return f"is not a valid template ({error}); placeholders are {known}, a literal brace is doubled"
    found = {str(name) for name, _, _ in fields}
    if missing := needed - found:
        return f"lacks {', '.join(f'{{{name}}}' for name in sorted(missing))}; placeholders are {known}"
    if unknown := found - needed - optional:
        return f"has unknown {', '.join(f'{{{name}}}' for name in sorted(unknown))}; placeholders are {known}"
    if styled := sorted(str(name) for name, spec, conversion in fields if spec or conversion):
        return f"formats {', '.join(styled)} with ! or :, but a placeholder is a name alone; placeholders are {known}"
    return None


__all__ = ["SelfDistillationConfig", "read_template"]
