"""What the teacher is shown, under the names and in the argument order that TRL users have in their code.

Each function is a call of `verl.self_distillation`, where the rules and the rendering stand; what is translated here is
the form alone: parallel lists instead of scored samples. Works on text and must not import torch. The default templates
are verl's with a newline behind them, as in the published package; `SDPOTrainer` itself uses verl's.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from verl.config.self_distillation import (
    FEEDBACK_TEMPLATE,
    REPROMPT_TEMPLATE,
    SOLUTION_TEMPLATE,
    SelfDistillationConfig,
)
from verl.self_distillation.reprompt import render_messages, replace_last_turn
from verl.self_distillation.sections import (
    Sections,
    choose_demonstration,
    combine,
    demonstration_text,
    remove_thinking,
    successes_by_uid,
)
from verl.types import Message, Prompt, Reward, Rollout, Sample

DEFAULT_REPROMPT_TEMPLATE = REPROMPT_TEMPLATE + "\n"
DEFAULT_SOLUTION_TEMPLATE = SOLUTION_TEMPLATE + "\n"
DEFAULT_FEEDBACK_TEMPLATE = FEEDBACK_TEMPLATE + "\n"


def remove_thinking_tags(text: str) -> str:
    """Delete each closed <think>...</think>, also over lines, with the white space after it; an unclosed one stays."""
    return remove_thinking(text)


def scored_samples(
    prompts_messages: Sequence[Sequence[Message]],
    uids: Sequence[object],
    rewards: Sequence[float | None],
    completions: Sequence[str],
    feedback: Sequence[str | None],
) -> list[Sample]:
    """The samples of a rollout batch, as the shared core reads them, from columns of equal length.

    Args:
        prompts_messages: the conversation behind each prompt.
        uids: name the groups; siblings of one prompt share it.
        rewards: total rewards; nan or None where nobody could score the response, which then is no success.
        completions: response texts, decoded without special tokens.
        feedback: what the environment says about each response; None or blank where it says nothing.

    Raises:
        ValueError: the columns differ in length.
    """
    columns: dict[str, Sequence[Any]] = {"prompts_messages": prompts_messages, "uids": uids, "rewards": rewards}
    columns |= {"completions": completions, "feedback": feedback}
    _check_lengths(columns)
    samples: list[Sample] = []
    for row, (messages, uid, reward, text, told) in enumerate(zip(*columns.values(), strict=True)):
        score = math.nan if reward is None else float(reward)
        # Texts alone are looked at; the tokens stay with the trainer.
        prompt = Prompt(row, list(messages), token_ids=[], data_source="", ground_truth=None)
        rollout = Rollout(row, [], [], log_probs=[], response_mask=[], finish_reason="stop", weight_version=0)
        samples.append(Sample(str(uid), prompt, rollout, text, Reward(score, score, told or "")))
    return samples


def select_demonstration(
    idx: int,
    uids: Sequence[object],
    rewards: Sequence[float | None],
    completions: Sequence[str],
    success_threshold: float = 1.0,
    exclude_self: bool = True,
    remove_thinking: bool = False,
) -> str | None:
    """The success that the teacher of sample `idx` is shown: the first of its group, None if there is no (other) one.

    Args:
        idx: position of the sample; the lists below hold all samples of its group, in order.
        uids: name the groups.
        rewards: total rewards; nan or None is no success.
        completions: response texts.
        success_threshold: a reward that reaches it is a success.
        exclude_self: never show a sample its own text.
        remove_thinking: delete closed <think>...</think> blocks from what is shown.

    Raises:
        IndexError: there is no sample `idx`.
        ValueError: the lists differ in length.
    """
    config = SelfDistillationConfig(
        success_reward_threshold=success_threshold,
        dont_reprompt_on_self_success=exclude_self,
        remove_thinking_from_demonstration=remove_thinking,
    )
    if not -len(uids) <= idx < len(uids):
        raise IndexError(f"idx={idx}: there are {len(uids)} samples; it must be from 0 to {len(uids) - 1}")
    samples = scored_samples([[]] * len(uids), uids, rewards, completions, [None] * len(uids))
    position = idx % len(uids)
    successes = successes_by_uid(samples, config.success_reward_threshold).get(samples[position].uid, [])
    shown = choose_demonstration(position, successes, completions, config, draw="")
    return None if shown is None else demonstration_text(completions[shown], config)


def build_teacher_prompts(
    prompts: Sequence[str],
    solutions: Sequence[str | None],
    feedback_list: Sequence[str | None],
    feedback_only_without_solution: bool = False,
    reprompt_template: str = DEFAULT_REPROMPT_TEMPLATE,
    solution_template: str = DEFAULT_SOLUTION_TEMPLATE,
    feedback_template: str = DEFAULT_FEEDBACK_TEMPLATE,
) -> list[str]:
    """The teacher's user messages; where there is neither a solution nor feedback, the prompt as it is.

    Args:
        prompts: the student's user messages.
        solutions: demonstrations; None where there is none.
        feedback_list: feedback; None or blank where there is none.
        feedback_only_without_solution: leave feedback out where there is a solution.
        reprompt_template: with {prompt}, {solution}, {feedback}.
        solution_template: with {successful_previous_attempt}.
        feedback_template: with {feedback_raw}.

    Raises:
        ValueError: the lists differ in length, or a template lacks a placeholder or has an unknown one.
    """
    config = SelfDistillationConfig(
        environment_feedback_only_without_solution=feedback_only_without_solution,
        reprompt_template=reprompt_template,
        solution_template=solution_template,
        feedback_template=feedback_template,
    )
    _check_lengths({"prompts": prompts, "solutions": solutions, "feedback_list": feedback_list})
    shown = _shown(solutions, feedback_list, config)
    return [
        render_messages([{"role": "user", "content": prompt}], sections, config)[-1]["content"]
        if sections.has_target
        else prompt
        for prompt, sections in zip(prompts, shown, strict=True)
    ]


def build_teacher_messages(
    original_messages: Sequence[str | Sequence[Message]], teacher_prompt_texts: Sequence[str]
) -> list[list[Message]]:
    """The teacher's conversations: each original one with its last turn replaced by a user message.

    Args:
        original_messages: conversations; a plain string, which has no turns, becomes the one user message.
        teacher_prompt_texts: of `build_teacher_prompts`, one for each conversation.

    Raises:
        ValueError: the lists differ in length.
    """
    _check_lengths({"original_messages": original_messages, "teacher_prompt_texts": teacher_prompt_texts})
    pairs = zip(original_messages, teacher_prompt_texts, strict=True)
    return [replace_last_turn([] if isinstance(messages, str) else messages, text) for messages, text in pairs]


def compute_self_distillation_mask(
    solutions: Sequence[str | None], feedback_list: Sequence[str | None], feedback_only_without_solution: bool = False
) -> list[float]:
    """1.0 where the teacher is shown anything, so that the row has a target, else 0.0; arguments as above.

    Raises:
        ValueError: the lists differ in length.
    """
    _check_lengths({"solutions": solutions, "feedback_list": feedback_list})
    config = SelfDistillationConfig(environment_feedback_only_without_solution=feedback_only_without_solution)
    return [float(sections.has_target) for sections in _shown(solutions, feedback_list, config)]


def _shown(
    solutions: Sequence[str | None], feedback_list: Sequence[str | None], config: SelfDistillationConfig
) -> list[Sections]:
    return [combine(*pair, config) for pair in zip(solutions, feedback_list, strict=True)]


def _check_lengths(columns: Mapping[str, Sequence[object]]) -> None:
    """Refuse columns of different length (ValueError), which would pair one sample's text with another's."""
    if len({len(column) for column in columns.values()}) > 1:
        counted = ", ".join(f"{name} has {len(column)}" for name, column in columns.items())
        raise ValueError(f"one entry for each sample is needed in every list, but {counted}")
