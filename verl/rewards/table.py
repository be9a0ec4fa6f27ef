"""Which scorer serves which `data_source`."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from verl.registry import Table

SCORERS = Table(
    "data_source",
    {
        "home_api": "verl.rewards.home_api:compute_score",
        "sciknoweval": "verl.rewards.mcq:compute_score",
    },
)


def compute_score(
    data_source: str, solution_str: str, ground_truth: Any, extra_info: dict[str, Any] | None = None
) -> dict[str, Any]:
    """Score one response with the scorer of its data source.

    Returns:
        At least `score`, `acc`, `pred`, `incorrect_format` and `feedback`.

    Raises:
        ValueError: no scorer for this data source; the message names it and the known ones.
    """
    if problem := _problem(data_source):
        raise ValueError(problem)
    return SCORERS.load(data_source)(solution_str, ground_truth, extra_info)


def check_sources(data_sources: Iterable[str], has_custom: bool) -> list[str]:
    """What a run's data sets lack in scorers, for the start-up check: one sentence for each unknown data source.

    A custom reward function scores every data source, so there is nothing to check then.
    """
    if has_custom:
        return []
    return [problem for source in sorted(set(data_sources)) if (problem := _problem(source))]


def _problem(data_source: str) -> str | None:
    problem = SCORERS.problem(data_source)
    return problem and f"{problem} A scorer of your own goes into custom_reward_function.path."
