"""AIME 2025: 30 problems with whole numbers as answers."""

from __future__ import annotations

from data.rows import Row
from data.schema import Question
from data.sources.base import Hub, Source
from data.sources.math_question import math_question


def _convert(row: Row) -> Question:
    return math_question(row.text("problem"), row.text_or_number("answer"), "aime25")


SOURCE = Source(Hub("math-ai/aime25", "test"), ("problem", "answer"), _convert)
