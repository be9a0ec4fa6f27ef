"""Multiple choice: the letter between <answer> and </answer> (SciKnowEval's format).

There is no feedback: saying more than right or wrong would give the answer away.
"""

from __future__ import annotations

import re
from typing import Any

from verl.rewards.verdict import verdict

_ENDS_IN_ANSWER = re.compile(r"<answer>(?:(?!</?answer>).)*</answer>\s*\Z", re.DOTALL)


def compute_score(solution_str: str, ground_truth: str, extra_info: dict[str, Any] | None = None) -> dict[str, Any]:
    """Score 1 when the last answer is the letter of `ground_truth`; a bare letter without tags counts too.

    `incorrect_format` is 0 when the response ends in a well-formed answer tag, else 1.
    """
    pred = solution_str.rpartition("<answer>")[2].partition("</answer>")[0].strip()
    return verdict(pred == ground_truth.strip(), pred, has_format=_ENDS_IN_ANSWER.search(solution_str) is not None)
