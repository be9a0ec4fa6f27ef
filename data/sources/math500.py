"""MATH-500: 500 problems of the MATH test set, with expressions as answers."""

from __future__ import annotations

from data.rows import Row
from data.schema import Question
from data.sources.base import Hub, Source
from data.sources.math_question import math_question


def _convert(row: Row) -> Question:
    return math_question(row.text("problem"), row.text_or_number("answer"), "math500")


SOURCE = Source(Hub("math-ai/math500", "test"), ("problem", "answer"), _convert)
