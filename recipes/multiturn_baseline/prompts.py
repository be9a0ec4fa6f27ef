"""What the model is shown in each turn: the question, and what came of earlier attempts at it.

Plain functions from messages to messages. The question is the stored chat, with its system message and earlier turns;
the sentences around the feedback stand in its last message, or in turns of their own.
"""

from __future__ import annotations

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
    least_dropped: int = 0,
) -> Context:
    """The prompt with as many of the newest attempts as fit.

    Args:
        encode: chat to token ids, with the generation prompt.
        max_tokens: longest prompt (`--max-context-len`).
        least_dropped: as many had to be left out in the turn before, so they are now: nothing is encoded in vain.

    Raises:
        InputError: the question alone is longer.
    """
    token_ids: list[int] = []
    for num_dropped in range(least_dropped, len(attempts) + 1):
        messages = template(question, attempts[num_dropped:])
        token_ids = encode(messages)
        if len(token_ids) <= max_tokens:
            return Context(messages, token_ids, num_dropped)
    raise InputError(
        f"The question alone has {len(token_ids)} tokens, --max-context-len allows {max_tokens}: raise it."
    )
