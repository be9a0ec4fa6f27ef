"""What the multi-turn baseline shows, letter by letter."""

import pytest

from recipes.multiturn_baseline.prompts import (
    TEMPLATES,
    Attempt,
    attempt_and_feedback,
    feedback_only,
    fit_context,
    teacher,
)
from verl.types import InputError

SYSTEM = {"role": "system", "content": "Be brief."}
QUESTION = [SYSTEM, {"role": "user", "content": "Add {a} and {b}."}]
ATTEMPTS = [Attempt("5", "Too small."), Attempt("7", ""), Attempt("9", "Too {large}.\nBy 1.")]


@pytest.mark.parametrize("template", TEMPLATES.values())
def test_the_first_turn_is_the_question_as_it_is_stored(template):
    assert template(QUESTION, []) == QUESTION


def test_feedback_only_joins_all_feedback_in_one_message():
    system, user = feedback_only(QUESTION, ATTEMPTS)
    assert system == SYSTEM and user["role"] == "user"
    assert user["content"] == (
        "Add {a} and {b}.\n\n"
        "The following is feedback from your unsuccessful earlier attempt:\n\n"
        "Too small.\n\n"
        "Too {large}.\nBy 1.\n\n"
        "Correctly solve the original question."
    )
    assert feedback_only(QUESTION, [Attempt("7", " \n")]) == QUESTION


def test_attempts_and_feedback_take_turns():
    assert attempt_and_feedback(QUESTION, ATTEMPTS)[2:] == [
        {"role": "assistant", "content": "5"},
        {
            "role": "user",
            "content": "The following is feedback from your unsuccessful earlier attempt:\n\nToo small.\n\n"
            "Correctly solve the original question.",
        },
        {"role": "assistant", "content": "7"},
        {"role": "user", "content": "Correctly solve the original question."},
        {"role": "assistant", "content": "9"},
        {
            "role": "user",
            "content": "The following is feedback from your unsuccessful earlier attempt:\n\nToo {large}.\nBy 1.\n\n"
            "Correctly solve the original question.",
        },
    ]


def test_the_teachers_words_have_one_line_break_before_them():
    (_, user) = teacher(QUESTION, ATTEMPTS[:2])
    assert user["content"] == (
        "Add {a} and {b}.\nThe following is feedback from your unsuccessful earlier attempt:\n\nToo small.\n\n"
        "Correctly solve the original question."
    )


def letters(messages):
    """A tokenizer whose tokens are characters."""
    return list(range(sum(len(message["content"]) for message in messages)))


@pytest.mark.parametrize(("room", "num_dropped"), [(0, 0), (-1, 1), (-12, 1), (-13, 2), (-24, 2), (-25, 3)])
def test_the_oldest_attempts_are_dropped_first(room, num_dropped):
    question = [{"role": "user", "content": "Q"}]
    attempts = [Attempt("", f"feedback {k}") for k in "abc"]  # 10 characters and 2 line breaks each
    limit = len(letters(feedback_only(question, attempts))) + room
    context = fit_context(question, attempts, feedback_only, letters, limit)
    assert context.num_dropped == num_dropped
    assert context.messages == feedback_only(question, attempts[num_dropped:])
    assert len(context.token_ids) == len(letters(context.messages)) <= limit
    for known in range(num_dropped + 1):
        assert fit_context(question, attempts, feedback_only, letters, limit, known) == context


def test_a_question_that_is_too_long_is_an_error():
    with pytest.raises(InputError, match="The question alone has 3 tokens, --max-context-len allows 2"):
        fit_context([{"role": "user", "content": "Why"}], [], feedback_only, letters, 2)
