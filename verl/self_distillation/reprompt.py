"""Write the teacher's prompts: each sample's question again, with a sibling's success or the environment's feedback.

A chain of plain functions from text to text, so that every stage can be read and tested without a model: choose what is
shown (`sections`), render the messages, fit them to length (`truncation`), count. Tokenising is passed in as a
function: it must be the one that made the student's prompts. All but the counting needs no more than a group of
siblings, so it is done for each group as soon as that is scored. Reference: arXiv 2601.20802.
"""

from __future__ import annotations

import functools
import string
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from verl.config.self_distillation import (
    TEMPLATE_PLACEHOLDERS,
    SelfDistillationConfig,
    read_template,
    template_problem,
)
from verl.self_distillation.sections import (
    Sections,
    choose_sections,
    collect_feedback,
    demonstration_text,
    successes_by_uid,
)
from verl.self_distillation.truncation import fit
from verl.types import InputError, Message, Sample

Encode = Callable[[list[Message]], list[int]]


@dataclass(frozen=True)
class Reprompt:
    """The teacher's prompt of one sample."""

    messages: list[Message]
    """The teacher's conversation; the original one where the sample has no target."""
    token_ids: list[int]
    """Empty where the sample has no target, or none that fits."""
    sections: Sections
    """What was chosen to be shown, before any shortening."""
    is_shortened: bool = False


@dataclass(frozen=True)
class Reprompts:
    """The teacher's prompts of a rollout batch, in its order."""

    teacher_prompt_ids: list[list[int]]
    """Empty where the sample has no target."""
    messages: list[list[Message]]
    """The teacher's conversation; the original one where the sample has no target."""
    metrics: dict[str, float]

    @property
    def self_distillation_mask(self) -> list[float]:
        """1 where the sample has a target."""
        return [float(bool(ids)) for ids in self.teacher_prompt_ids]


def build_reprompts(samples: Sequence[Sample], config: SelfDistillationConfig, encode: Encode, seed: int) -> Reprompts:
    """`write_reprompts` and `count_reprompts` of a whole rollout batch."""
    return count_reprompts(samples, write_reprompts(samples, config, encode, seed), config)


def write_reprompts(
    samples: Sequence[Sample], config: SelfDistillationConfig, encode: Encode, seed: int
) -> list[Reprompt]:
    """Make the teacher's prompt of every sample that has a demonstration or feedback.

    Args:
        samples: scored, of one group or several; all samples of a uid must be there, in the order of their requests.
        config: selection rules, templates, `max_reprompt_len`.
        encode: chat to token ids, with the generation prompt.
        seed: of this step; used by `demonstration_choice=random`.

    Raises:
        InputError: with `reprompt_truncation=error`, when a prompt is longer than `max_reprompt_len`.
    """
    sections = choose_sections(samples, config, seed)
    return [_fit_sample(sample, shown, config, encode) for sample, shown in zip(samples, sections, strict=True)]


def count_reprompts(
    samples: Sequence[Sample], reprompts: Sequence[Reprompt], config: SelfDistillationConfig
) -> Reprompts:
    """Put the reprompts of a whole rollout batch, one for each sample, together with their metrics."""
    return Reprompts(
        teacher_prompt_ids=[reprompt.token_ids for reprompt in reprompts],
        messages=[reprompt.messages for reprompt in reprompts],
        metrics=_metrics(samples, reprompts, config),
    )


def render_messages(messages: Sequence[Message], sections: Sections, config: SelfDistillationConfig) -> list[Message]:
    """The teacher's conversation: the original one with its last message replaced by the filled template.

    Texts are put in as they are: braces in them mean nothing.
    """
    templates = _templates_of(config)
    solution = feedback = ""
    if sections.demonstration is not None:
        solution = templates.solution.format(successful_previous_attempt=sections.demonstration)
    if sections.feedback is not None:
        feedback = templates.feedback.format(feedback_raw=sections.feedback)
    content = templates.reprompt.format(
        prompt=messages[-1]["content"], solution=solution, feedback=feedback, attempt=sections.attempt or ""
    )
    return replace_last_turn(messages, content)


def replace_last_turn(messages: Sequence[Message], content: str) -> list[Message]:
    """The conversation with a user message in the place of its last turn; one of its own if there was no turn."""
    return [*messages[:-1], {"role": "user", "content": content}]


def demonstration_messages(
    messages: Sequence[Message], response_text: str, config: SelfDistillationConfig
) -> list[Message]:
    """The teacher's conversation when it is shown one response as the solution, and nothing else."""
    return render_messages(messages, Sections(demonstration=demonstration_text(response_text, config)), config)


@dataclass(frozen=True)
class _Templates:
    reprompt: str
    solution: str
    feedback: str

    @property
    def uses_attempt(self) -> bool:
        return any(name == "attempt" for _, name, _, _ in string.Formatter().parse(self.reprompt))


def _templates_of(config: SelfDistillationConfig) -> _Templates:
    names = ("reprompt_template", "solution_template", "feedback_template")
    return _Templates(*(_read(name, getattr(config, name)) for name in names))


@functools.cache
def _read(key: str, template: str) -> str:
    """A template's text. A `file:` is read once for the run: an edit must not change the teacher half-way."""
    text = read_template(template)
    if problem := template_problem(text, *TEMPLATE_PLACEHOLDERS[key]):
        raise ValueError(f"self_distillation.{key}={template!r}: {problem}")
    return text


def _fit_sample(sample: Sample, sections: Sections, config: SelfDistillationConfig, encode: Encode) -> Reprompt:
    """Render and fit one sample; without token ids when it has no target, or none that fits."""
    messages = sample.prompt.messages
    if not sections.has_target:
        return Reprompt(messages, [], sections)
    names = [name for name in ("demonstration", "feedback") if getattr(sections, name) is not None]
    if sections.attempt is not None and _templates_of(config).uses_attempt:
        names.append("attempt")

    def render(texts: list[str]) -> list[Message]:
        return render_messages(messages, replace(sections, **dict(zip(names, texts, strict=True))), config)

    texts = [getattr(sections, name) for name in names]
    limit = config.max_reprompt_len
    if config.reprompt_truncation == "error":
        token_ids = encode(render(texts))
        if len(token_ids) > limit:
            raise InputError(
                f"response {sample.rollout.request_id} (prompt {sample.prompt.index}): its teacher prompt has"
                f" {len(token_ids)} tokens, max_reprompt_len={limit}. Raise the limit, or set"
                " reprompt_truncation=right or left to shorten the texts put into it."
            )
        return Reprompt(render(texts), token_ids, sections)
    fitted = fit(texts, lambda kept: encode(render(kept)), limit, config.reprompt_truncation)
    if fitted is None:
        return Reprompt(messages, [], sections)
    return Reprompt(render(fitted.texts), fitted.token_ids, sections, fitted.is_shortened)


def _metrics(
    samples: Sequence[Sample], reprompts: Sequence[Reprompt], config: SelfDistillationConfig
) -> dict[str, float]:
    """Shares of groups and samples; the lengths are left out when there is no teacher prompt."""
    groups = {sample.uid for sample in samples}
    successes = successes_by_uid(samples, config.success_reward_threshold)
    sections = [reprompt.sections for reprompt in reprompts]
    lengths = [len(reprompt.token_ids) for reprompt in reprompts if reprompt.token_ids]
    num_samples = max(len(samples), 1)
    dropped = sum(reprompt.sections.has_target and not reprompt.token_ids for reprompt in reprompts)
    metrics = {
        "success_group_fraction": len(successes) / max(len(groups), 1),
        "success_sample_fraction": sum(s.demonstration is not None for s in sections) / num_samples,
        "feedback_available_fraction": sum(f is not None for f in collect_feedback(samples, config)) / num_samples,
        "feedback_used_fraction": sum(s.feedback is not None for s in sections) / num_samples,
        "reprompt_sample_fraction": len(lengths) / num_samples,
        "reprompt_truncated_fraction": sum(reprompt.is_shortened for reprompt in reprompts) / num_samples,
        "reprompt_dropped_fraction": dropped / num_samples,
    }
    if lengths:
        metrics |= {"reprompt_len/mean": sum(lengths) / len(lengths), "reprompt_len/max": float(max(lengths))}
    return {f"self_distillation/{name}": value for name, value in metrics.items()}
