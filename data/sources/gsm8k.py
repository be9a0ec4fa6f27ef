"""GSM8K: grade school problems; the answer follows `####` after the solution, with its sign and separators."""

from __future__ import annotations

from data.rows import Row
from data.schema import Question
from data.sources.base import Hub, Source
from data.sources.math_question import math_question


def _convert(row: Row) -> Question:
    _, mark, answer = row.text("answer").rpartition("####")
    if not mark or not answer.strip():
        raise row.problem("answer", "a text that ends in '#### ' and the answer")
    return math_question(row.text("question"), answer.strip(), "gsm8k")


SOURCE = Source(Hub("openai/gsm8k", "test", configs=("main",)), ("question", "answer"), _convert)
