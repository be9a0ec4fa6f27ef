"""MMLU-Pro: up to ten options, and the prompt asks for "the answer is (X)". No feedback: it would tell the answer."""

from __future__ import annotations

import re
from typing import Any

from verl.rewards.letters import last_letter, standalone_letters
from verl.rewards.verdict import verdict

LETTERS = "ABCDEFGHIJ"
_OPENING = r"(?:\\(?:boxed|text|textbf|mathrm|mathbf)\b|[\s({\[$*_])*"
_STATED = [
    re.compile(rf"answer\s+is:?{_OPENING}\Z", re.IGNORECASE),
    re.compile(rf"answer[*_]*:{_OPENING}\Z", re.IGNORECASE),
]
_MAX_STATEMENT = 60
"""Characters before a letter that are looked at."""


def compute_score(solution_str: str, ground_truth: str, extra_info: dict[str, Any] | None = None) -> dict[str, Any]:
    """Score 1 when the answer is the letter of `ground_truth`.

    The answer is the last one stated as "answer is (X)", else as "Answer: X", else the last letter that stands alone.
    `incorrect_format` is 0 when it was stated, else 1.
    """
    stated = stated_letter(solution_str)
    pred = stated or last_letter(solution_str, LETTERS)
    return verdict(pred == ground_truth.strip(), pred, has_format=bool(stated))


def stated_letter(text: str) -> str:
    """The letter of the last "answer is (X)", else of the last "Answer: X", else ""."""
    found = standalone_letters(text, LETTERS)
    for statement in _STATED:
        for letter in reversed(found):
            if statement.search(text, max(0, letter.start() - _MAX_STATEMENT), letter.start()):
                return letter[0]
    return ""
