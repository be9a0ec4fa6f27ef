"""What every scorer is told beside the response, and the one form of its answer.

Keys of a verdict: `score` and `acc` (0 or 1), `pred` (what was taken for the answer, "" if nothing),
`incorrect_format` (0 or 1) and `feedback`. A family may add keys, and then always does, so that the lists of a batch
never shift: math and code add `truncated` and `truncated_and_missing_answer`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

MAY_REVEAL_ANSWER = "feedback_may_reveal_answer"
"""Key of `extra_info`: the run's policy (`reward_model.feedback_may_reveal_answer`). Without it, never."""


def may_reveal_answer(extra_info: Mapping[str, Any] | None) -> bool:
    """Whether the feedback may name the right answer. The teacher reads it, and would only have to copy."""
    return bool((extra_info or {}).get(MAY_REVEAL_ANSWER, False))


def is_truncated(extra_info: Mapping[str, Any] | None) -> bool:
    """Whether the response was cut by the length limit."""
    return bool((extra_info or {}).get("truncated", False))


def verdict(is_right: bool, pred: str, has_format: bool, feedback: str = "") -> dict[str, Any]:
    """The keys that all scorers return. A right response gets no feedback."""
    return {
        "score": float(is_right),
        "acc": float(is_right),
        "pred": pred,
        "incorrect_format": int(not has_format),
        "feedback": "" if is_right else feedback,
    }
