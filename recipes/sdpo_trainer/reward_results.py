"""Read what a reward function returned: a list with a number, None or a dictionary for each completion.

What a single result must look like is the core's rule (`verl.rewards.score_to_reward`); TRL adds None, which means that
the reward does not apply to that completion.
"""

from __future__ import annotations

import numbers
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from verl.rewards import score_to_reward


@dataclass(frozen=True)
class Results:
    """One call's results, taken apart; lists have one entry for each completion."""

    scores: list[float | None]
    feedback: list[str | None] | None
    """None when no dictionary has the key `feedback`."""
    numbers: dict[str, list[float]]
    """All other numbers of the dictionaries, by key, of the completions that have them."""


def read_results(name: str, results: Any, count: int) -> Results:
    """Take the results of reward function `name` for `count` completions apart.

    Raises ValueError naming the function (and the completion) for no list, a wrong number of results, a dictionary
    without `score`, a score that is not finite, and feedback that is no text.
    """
    if isinstance(results, str | Mapping) or not hasattr(results, "__iter__"):
        raise ValueError(
            f"reward function {name!r} returned {results!r}; it must return a list with one number, None or dictionary"
            " with 'score' for each completion"
        )
    results = list(results)
    if len(results) != count:
        raise ValueError(
            f"reward function {name!r} returned {len(results)} results for {count} completions; it must return one for"
            " each (None where it does not apply)"
        )
    scores: list[float | None] = []
    feedback: list[str | None] = []
    others: dict[str, list[float]] = {}
    for index, result in enumerate(results):
        try:
            score, text = _score_and_feedback(result)
        except ValueError as error:
            raise ValueError(f"reward function {name!r}, completion {index}: {error}") from error
        scores.append(score)
        feedback.append(text)
        for key, value in result.items() if isinstance(result, Mapping) else ():
            number = None if key in ("score", "feedback") else _number(value)
            if number is not None:
                others.setdefault(str(key), []).append(number)
    is_told = any(isinstance(result, Mapping) and "feedback" in result for result in results)
    return Results(scores, feedback if is_told else None, others)


def _score_and_feedback(result: Any) -> tuple[float | None, str | None]:
    if result is None:
        return None, None
    if not isinstance(result, Mapping):
        return score_to_reward(result).score, None
    applies = "score" not in result or result["score"] is not None
    plain = {key: value for key, value in result.items() if key != "acc"}  # a plain number to log here
    reward = score_to_reward(plain if applies else {**plain, "score": 0.0})
    return (reward.score if applies else None), result.get("feedback")


def _number(value: Any) -> float | None:
    """A number of any library as a float; None for what is none."""
    if not isinstance(value, numbers.Real) and getattr(value, "shape", None) == ():
        value = value.item()
    return float(value) if isinstance(value, numbers.Real) else None
