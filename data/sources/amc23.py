"""AMC 2023: 40 problems with whole numbers as answers."""

from __future__ import annotations

from data.rows import Row
from data.schema import Question
from data.sources.base import Hub, Source
from data.sources.math_question import math_question


def _convert(row: Row) -> Question:
    return math_question(row.text("question"), row.text_or_number("answer"), "amc23")


SOURCE = Source(Hub("math-ai/amc23", "test"), ("question", "answer"), _convert)
