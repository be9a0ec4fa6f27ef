"""AIME 2024: 30 problems; the answer is the box at the end of the solution."""

from __future__ import annotations

from data.rows import Row
from data.schema import Question
from data.sources.base import Hub, Source
from data.sources.math_question import math_question
from verl.rewards.boxed import last_boxed


def _convert(row: Row) -> Question:
    answer = last_boxed(row.text("solution"))
    if not answer:
        raise row.problem("solution", "a text with \\boxed{answer}")
    return math_question(row.text("problem"), answer, "aime24")


SOURCE = Source(Hub("math-ai/aime24", "test"), ("problem", "solution"), _convert)
