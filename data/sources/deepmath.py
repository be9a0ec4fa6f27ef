"""DeepMath-103K: hard problems with verifiable answers, checked against common benchmarks for overlap."""

from __future__ import annotations

from data.rows import Row
from data.schema import Question
from data.sources.base import Hub, Source
from data.sources.math_question import math_question


def _convert(row: Row) -> Question:
    return math_question(row.text("question"), row.text_or_number("final_answer"), "deepmath")


SOURCE = Source(Hub("zwhe99/DeepMath-103K", "train"), ("question", "final_answer"), _convert)
