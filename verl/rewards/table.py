"""Which scorer serves which `data_source`."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

from verl.config.sandbox import SandboxConfig
from verl.registry import Table
from verl.sandbox import isolation_problem
from verl.types import InputError, Prompt

_CODE = "verl.rewards.code:compute_sparse_score"
_MATH = "verl.rewards.math_answer:compute_score"
_MCQ = "verl.rewards.mcq:compute_score"

SCORERS = Table(
    "data_source",
    {
        "aime24": _MATH,
        "aime25": _MATH,
        "amc23": _MATH,
        "code": _CODE,
        "code_elo": _CODE,
        "codeforces": _CODE,
        "dapo_math": _MATH,
        "deepcoder": _CODE,
        "deepmath": _MATH,
        "gpqa": "verl.rewards.gpqa:compute_score",
        "gsm8k": _MATH,
        "home_api": "verl.rewards.home_api:compute_score",
        "humanevalplus": _CODE,
        "livecodebench": _CODE,
        "math": _MATH,
        "math500": _MATH,
        "mbppplus": _CODE,
        "mcq": _MCQ,
        "mmlu_pro": "verl.rewards.mmlu_pro:compute_score",
        "polaris": _MATH,
        "primeintellect": _CODE,
        "sciknoweval": _MCQ,
        "taco": _CODE,
        "tooluse": "verl.rewards.tooluse:compute_score",
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


def check_ground_truths(prompts: Iterable[Prompt]) -> None:
    """Our scorers compare with something; a user's own need not. Raises InputError where that is missing."""
    for prompt in prompts:
        truth = prompt.ground_truth
        if truth is None or (isinstance(truth, float) and math.isnan(truth)):
            question = prompt.messages[-1]["content"] if prompt.messages else ""
            raise InputError(
                f"prompt {prompt.index} of data_source {prompt.data_source!r} ({question[:60]!r}): its ground_truth is"
                f" {truth}, and the scorer has nothing to compare with. Mend the row, or score it with"
                " custom_reward_function.path."
            )


def check_isolation(data_sources: Iterable[str], has_custom: bool, config: SandboxConfig) -> list[str]:
    """Whether this machine can grade programs, for the start-up check: a sentence that says what to install if not.

    Only asked where a data source has programs, since a sandbox is started to find out.
    """
    runs_programs = not has_custom and any(SCORERS.location(source) == _CODE for source in data_sources)
    problem = isolation_problem(config) if runs_programs else None
    return [problem] if problem else []


def _problem(data_source: str) -> str | None:
    problem = SCORERS.problem(data_source)
    return problem and f"{problem} A scorer of your own goes into custom_reward_function.path."
