"""MMLU-Pro: questions with up to ten options."""

from __future__ import annotations

from string import ascii_uppercase

from data.rows import Row
from data.schema import Question
from data.sources.base import Hub, Source
from data.sources.choices import option_lines


def _convert(row: Row) -> Question:
    question, options, answer = row.text("question"), row.texts("options"), row.text("answer")
    letters = ascii_uppercase[: len(options)]
    if answer not in list(letters):
        raise row.problem("answer", f"one letter of {letters[0]} to {letters[-1]}, as there are {len(options)} options")
    prompt = (
        f"{question}\n\n{option_lines(options)}\n\n"
        'Please reason step by step, and finish with "the answer is (X)", where X is the letter of the right option.'
    )
    return Question("mmlu_pro", "mmlu_pro", prompt, description=question, answer=answer)


SOURCE = Source(
    Hub("TIGER-Lab/MMLU-Pro", "test"), ("question", "options", "answer", "category"), _convert, category="category"
)
