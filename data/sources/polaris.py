"""Polaris-53K: problems with answers, filtered by difficulty for a 7B model."""

from __future__ import annotations

from data.rows import Row
from data.schema import Question
from data.sources.base import Hub, Source
from data.sources.math_question import math_question


def _convert(row: Row) -> Question:
    return math_question(row.text("problem"), row.text_or_number("answer"), "polaris")


SOURCE = Source(Hub("POLARIS-Project/Polaris-Dataset-53K", "train"), ("problem", "answer"), _convert)
