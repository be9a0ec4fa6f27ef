"""What the model is shown in each turn: the question, and what came of earlier attempts at it.

Plain functions from messages to messages. The question is the stored chat, with its system message and earlier turns;
the sentences around the feedback stand in its last message, or in turns of their own.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from verl.config.self_distillation import SelfDistillationConfig
from verl.self_distillation.reprompt import render_messages
from verl.self_distillation.sections import Sections
from verl.types import InputError, Message

INTRODUCTION = "The following is feedback from your unsuccessful earlier attempt:"
REQUEST = "Correctly solve the original question."


@dataclass(frozen=True)
class Attempt:
    """An earlier turn that was not right."""

    response: str
    feedback: str
    """Blank when the environment said nothing."""


Template = Callable[[Sequence[Message], Sequence[Attempt]], list[Message]]


def feedback_only(question: Sequence[Message], attempts: Sequence[Attempt]) -> list[Message]:
    """One user message: the question, all feedback, the request. Attempts without feedback leave no trace."""
    texts = [attempt.feedback for attempt in attempts if attempt.feedback.strip()]
    if not texts:
        return list(question)
    parts = [question[-1]["content"], INTRODUCTION, *texts, REQUEST]
    return [*question[:-1], {"role": "user", "content": "\n\n".join(parts)}]


def attempt_and_feedback(question: Sequence[Message], attempts: Sequence[Attempt]) -> list[Message]:
    """A conversation: each attempt is the assistant's turn, its feedback and the request the user's."""
    messages = list(question)
    for attempt in attempts:
        said = [INTRODUCTION, attempt.feedback] if attempt.feedback.strip() else []
        messages.append({"role": "assistant", "content": attempt.response})
        messages.append({"role": "user", "content": "\n\n".join([*said, REQUEST])})
    return messages


def teacher(question: Sequence[Message], attempts: Sequence[Attempt]) -> list[Message]:
    """`feedback_only` in the words and line breaks that SDPO's teacher reads, for models that were taught these."""
    texts = [attempt.feedback for attempt in attempts if attempt.feedback.strip()]
    if not texts:
        return list(question)
    return render_messages(question, Sections(feedback="\n\n".join(texts)), SelfDistillationConfig())


TEMPLATES: dict[str, Template] = {
    "feedback_only": feedback_only,
    "attempt_and_feedback": attempt_and_feedback,
    "teacher": teacher,
}


@dataclass(frozen=True)
class Context:
    """What is shown in one turn."""

    messages: list[Message]
    token_ids: list[int]
    num_dropped: int
    """Oldest attempts that were left out because the prompt would have been too long."""


def fit_context(
    question: Sequence[Message],
    attempts: Sequence[Attempt],
    template: Template,
    encode: Callable[[list[Message]], list[int]],
    max_tokens: int,
) -> Context:
    """The prompt with as many of the newest attempts as fit.

    A prompt only grows with what it shows, so the first attempt to be kept is found by bisection.

    Args:
        encode: chat to token ids, with the generation prompt.
        max_tokens: longest prompt (`--max-context-len`).

    Raises:
        InputError: the question alone is longer.
    """

    def encoded(num_dropped: int) -> list[int]:
        return encode(template(question, attempts[num_dropped:]))

    num_dropped = 0
    if len(encoded(0)) > max_tokens:
        num_dropped = bisect_left(range(len(attempts)), True, key=lambda start: len(encoded(start)) <= max_tokens)
    token_ids = encoded(num_dropped)
    if len(token_ids) > max_tokens:
        raise InputError(
            f"The question alone has {len(token_ids)} tokens, --max-context-len allows {max_tokens}: raise it."
        )
    return Context(template(question, attempts[num_dropped:]), token_ids, num_dropped)
