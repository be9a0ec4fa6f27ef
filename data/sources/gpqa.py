"""GPQA diamond: four options without letters, so their order is ours.

The order is drawn from the question's own text: it is the same in every run and does not depend on the other rows. The
set is gated: its terms have to be accepted on the hub.
"""

from __future__ import annotations

import random

from data.rows import Row
from data.schema import Question
from data.sources.base import Hub, Source
from data.sources.choices import option_lines

_RIGHT = "Correct Answer"
_WRONG = ("Incorrect Answer 1", "Incorrect Answer 2", "Incorrect Answer 3")


def _convert(row: Row) -> Question:
    question = row.text("Question").strip()
    columns = [_RIGHT, *_WRONG]
    random.Random(question).shuffle(columns)
    options = [row.text_or_number(column).strip() for column in columns]
    prompt = (
        f"{question}\n\n{option_lines(options)}\n\n"
        "Please reason step by step, and put the letter of your final answer within \\boxed{}."
    )
    return Question("gpqa", "gpqa", prompt, description=question, answer="ABCD"[columns.index(_RIGHT)])


SOURCE = Source(
    Hub("Idavidrein/gpqa", "train", configs=("gpqa_diamond",)),
    ("Question", _RIGHT, *_WRONG, "High-level domain"),
    _convert,
    category="High-level domain",
)
