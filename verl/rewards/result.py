"""Read what a scorer returned: a number, or a dictionary with `score` and whatever else it has to say."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from verl.types import Reward

_OWN_FIELDS = ("score", "acc", "feedback")


def score_to_reward(result: Any) -> Reward:
    """Turn a scorer's result into a `Reward`.

    `acc` defaults to the score, `feedback` (or None) to ""; all other keys become `extras`, as plain values.

    Raises:
        ValueError: neither a number nor a dictionary, no `score`, a number that is not finite, or a feedback that is
            not text.
    """
    if not isinstance(result, Mapping):
        score = _number("result", result)
        return Reward(score=score, acc=score)
    if "score" not in result:
        raise ValueError(f"the scorer's dictionary has no 'score'; it has {', '.join(map(str, result)) or 'no keys'}.")
    score = _number("score", result["score"])
    acc = result.get("acc")
    feedback = result.get("feedback")
    if feedback is not None and not isinstance(feedback, str):
        raise ValueError(f"the scorer's 'feedback' is {feedback!r}; it must be text, \"\" when there is none.")
    return Reward(
        score=score,
        acc=score if acc is None else _number("acc", acc),
        feedback=feedback or "",
        extras={str(key): _plain(value) for key, value in result.items() if key not in _OWN_FIELDS},
    )


def _plain(value: Any) -> Any:
    """What can be sent to the driver and written as JSON: numbers, texts, lists, mappings; the text of all else."""
    if value is None or isinstance(value, str | int | float):
        return value
    if isinstance(value, Mapping):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(inner) for inner in value]
    return value.tolist() if hasattr(value, "tolist") else str(value)


def _number(what: str, value: Any) -> float:
    """A finite float from any number, also those of numpy and torch."""
    try:
        number = math.nan if isinstance(value, str) else float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number):
        raise ValueError(
            f"the scorer's {what!r} is {value!r}; it must be a finite number"
            f"{' or a dictionary with score' if what == 'result' else ''}."
        )
    return number
