r"""GPQA: four options, and the prompt asks for the letter in `\boxed{}`. No feedback: it would tell the answer."""

from __future__ import annotations

from typing import Any

from verl.rewards.letters import boxed_letter, last_letter
from verl.rewards.verdict import verdict

LETTERS = "ABCD"


def compute_score(solution_str: str, ground_truth: str, extra_info: dict[str, Any] | None = None) -> dict[str, Any]:
    """Score 1 when the boxed letter, or without one the last letter that stands alone, is that of `ground_truth`.

    `incorrect_format` is 0 when a letter is boxed, else 1.
    """
    boxed = boxed_letter(solution_str, LETTERS)
    pred = boxed or last_letter(solution_str, LETTERS)
    return verdict(pred == ground_truth.strip(), pred, has_format=bool(boxed))
