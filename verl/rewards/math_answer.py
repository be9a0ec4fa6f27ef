r"""Mathematics: the answer in the last `\boxed{}`, equal to the gold one as text or as mathematics.

The feedback is about the form only; that the answer is wrong, and what is right, is told only where the run's policy
allows it.
"""

from __future__ import annotations

from typing import Any

from verl.rewards.boxed import last_boxed
from verl.rewards.math_checker import are_equal
from verl.rewards.verdict import is_truncated, may_reveal_answer, verdict

WRONG_FORMAT = "Your answer had the wrong format. The solution must be given in the format: \\boxed{your_answer}."
TRUNCATED = "Your response was truncated because it exceeded the maximum length."


def compute_score(solution_str: str, ground_truth: Any, extra_info: dict[str, Any] | None = None) -> dict[str, Any]:
    r"""Score 1 when the last `\boxed{}` of the response is equal to `ground_truth`.

    Args:
        solution_str: the response.
        ground_truth: text or a number; LaTeX with or without delimiters.
        extra_info: `truncated` is true for a response that reached its maximum length.

    Returns:
        The keys of all scorers (`pred` is the text in the box, `incorrect_format` is 0 when there is one), and
        `truncated` and `truncated_and_missing_answer` (0 or 1).
    """
    gold = str(ground_truth).strip()
    boxed, was_cut = last_boxed(solution_str), is_truncated(extra_info)
    is_right = boxed is not None and (boxed == gold or are_equal(gold, boxed))
    if was_cut:
        feedback = TRUNCATED
    elif boxed is None:
        feedback = WRONG_FORMAT
    else:
        feedback = f"Your answer is incorrect. The correct answer is {gold}." if may_reveal_answer(extra_info) else ""
    return verdict(is_right, boxed or "", boxed is not None, feedback) | {
        "truncated": int(was_cut),
        "truncated_and_missing_answer": int(was_cut and boxed is None),
    }
