"""discovery@k: how likely is at least one of the first k attempts at a question right, averaged over questions?

A run is one question with one seed, T the number of its first right attempt. What a run says about k:

- Methods that learn from attempt to attempt (sdpo, multiturn), and any that stop when solved: 1 if T <= k, else 0.
- `best_of_k` with a fixed number n of independent attempts, c of them right: any k of the n could have come first, so
  the mean over all choices, 1 - C(n-c, k) / C(n, k), is unbiased too and varies less (arXiv:2107.03374, section 2.1).
  With a number that depends on the outcomes it would be biased, therefore the header's `stops_when_solved`.

A run that was solved counts as solved for all larger k, if it stopped then or learns. Of a run that was not solved, or
of n independent attempts, nothing is known beyond its last attempt: the curve of a method ends there, at the smallest
such budget of its runs (`Discovery.budget`); nothing is guessed. If all runs were solved it goes on as far as those it
is compared with.

Runs are averaged over seeds, then over questions. Intervals are percentiles of 1000 bootstrap draws with a fixed seed:
questions are drawn with replacement, and for each of them its seeds; or, with `resample_questions=False`, seeds alone,
which says how sure the figure is for these very questions.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from verl.evaluation.attempts import Attempt, AttemptLog
from verl.types import InputError

NUM_DRAWS = 1000
SEED = 42
LEVEL = 0.9
"""Of the intervals."""

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class AttemptRun:
    """The attempts at one question with one seed, counted."""

    question_id: str
    seed: int
    num_attempts: int
    num_solved: int
    first_solved: int | None
    """Number of the first right attempt, from 1."""
    is_exchangeable: bool
    """A fixed number of independent attempts: their order says nothing."""

    @property
    def known_until(self) -> int | None:
        """Largest k that the run says something about; None: all."""
        if self.first_solved is not None and not self.is_exchangeable:
            return None
        return self.num_attempts

    def curve(self, budget: int) -> Floats:
        """Probability that one of the first k attempts is right, for k = 1..budget; [budget]."""
        if self.is_exchangeable:
            return unbiased_curve(self.num_attempts, self.num_solved, budget)
        first = budget + 1 if self.first_solved is None else self.first_solved
        return (np.arange(1, budget + 1) >= first).astype(float)


@dataclass(frozen=True)
class Discovery:
    """The curve of one method."""

    label: str
    runs: list[AttemptRun]
    mean: Floats
    """discovery@k for k = 1..budget; [budget]."""
    draws: Floats
    """The same for each bootstrap draw; [NUM_DRAWS, budget]."""

    @property
    def budget(self) -> int:
        """Largest k that is known for all runs."""
        return len(self.mean)

    @property
    def questions(self) -> set[str]:
        """Ids of the questions."""
        return {run.question_id for run in self.runs}

    @property
    def shortest(self) -> AttemptRun | None:
        """The run that ends the curve; None if all were solved."""
        limits = {run: run.known_until for run in self.runs}
        return next((run for run, known in limits.items() if known == self.budget), None)

    def at(self, k: int) -> tuple[float, float, float]:
        """discovery@k with its interval: mean, low, high. k is from 1 to `budget`."""
        return (float(self.mean[k - 1]), *_interval(self.draws[:, k - 1]))

    @property
    def band(self) -> tuple[Floats, Floats]:
        """The interval's lower and upper ends for all k; [budget] each."""
        low, high = np.quantile(self.draws, [(1 - LEVEL) / 2, (1 + LEVEL) / 2], axis=0)
        return low, high

    def mean_attempts(self, limit: int) -> tuple[float, float, float]:
        """Mean of min(T, limit) with its interval: attempts until solved, where an unsolved run counts as `limit`.

        As sum over k = 0..limit-1 of P(T > k) = 1 - discovery@k, so that it is the area above the curve for every
        method. `limit` is at most `budget`.
        """
        needed = limit - self.draws[:, : limit - 1].sum(1)
        return (float(limit - self.mean[: limit - 1].sum()), *_interval(needed))


def unbiased_curve(num_attempts: int, num_solved: int, budget: int) -> Floats:
    """1 - C(n-c, k) / C(n, k) for k = 1..budget <= n; [budget].

    As the running product of (n - c - j) / (n - j) over j = 0..k-1: every factor is in [0, 1], so neither binomials
    overflow nor differences of large numbers are taken. 1 where k > n - c.
    """
    drawn = np.arange(budget)
    factors = np.clip(num_attempts - num_solved - drawn, 0, None) / (num_attempts - drawn)
    return 1.0 - np.cumprod(factors, dtype=np.float64)


def count_runs(log: AttemptLog) -> list[AttemptRun]:
    """The runs in a log, in order of their first attempts."""
    found: dict[tuple[str, int], list[Attempt]] = defaultdict(list)
    for attempt in log.attempts:
        found[attempt.run].append(attempt)
    header = log.header
    return [
        AttemptRun(
            question_id=question_id,
            seed=seed,
            num_attempts=len(attempts),
            num_solved=sum(attempt.solved for attempt in attempts),
            first_solved=next((attempt.attempt for attempt in attempts if attempt.solved), None),
            is_exchangeable=header.method == "best_of_k" and not header.stops_when_solved,
        )
        for (question_id, seed), attempts in found.items()
    ]


def discover_all(logs: Mapping[str, Sequence[AttemptLog]], resample_questions: bool = True) -> list[Discovery]:
    """discovery@k of several methods, from their logs by label. Raises InputError as `discover` does."""
    found = [discover(label, own, resample_questions) for label, own in logs.items()]
    longest = max(method.budget for method in found)
    return [
        method if method.shortest else discover(method.label, logs[method.label], resample_questions, longest)
        for method in found
    ]


def discover(
    label: str, logs: Iterable[AttemptLog], resample_questions: bool = True, least_budget: int = 1
) -> Discovery:
    """discovery@k of one method from its logs.

    Args:
        label: names the method in messages.
        logs: each run is in one of them.
        resample_questions: draw questions too, not only seeds.
        least_budget: how far the curve goes, at least, if all runs were solved.

    Raises InputError when there is no attempt, or when two logs hold the same question with the same seed.
    """
    homes: dict[tuple[str, int], AttemptLog] = {}
    runs: list[AttemptRun] = []
    for log in logs:
        for run in count_runs(log):
            key = (run.question_id, run.seed)
            if key in homes:
                raise InputError(
                    f"Question {run.question_id} with seed {run.seed} is in {homes[key].path} and in {log.path}: one"
                    f" run cannot count twice for {label}. Leave one out, or give them different labels (LABEL=FILE)."
                )
            homes[key] = log
            runs.append(run)
    if not runs:
        raise InputError(f"{label}: there is no attempt in its logs yet.")
    known = [run.known_until for run in runs if run.known_until is not None]
    budget = min(known) if known else max(least_budget, *(run.num_attempts for run in runs))
    curves = np.stack([run.curve(budget) for run in runs])  # [runs, budget]
    groups = _by_question(runs)
    weights = np.zeros(len(runs))
    for members in groups:
        weights[members] = 1 / (len(members) * len(groups))
    draws = bootstrap_weights(groups, len(runs), resample_questions) @ curves
    return Discovery(label, runs, weights @ curves, draws)


def bootstrap_weights(groups: Sequence[Sequence[int]], num_runs: int, resample_questions: bool) -> Floats:
    """What each run counts in each bootstrap draw, so that a draw's curve is weights @ curves; [NUM_DRAWS, runs].

    Args:
        groups: the runs of each question.
    """
    random = np.random.default_rng(SEED)
    weights = np.zeros((NUM_DRAWS, num_runs))
    for draw in weights:
        for position in range(len(groups)):
            members = groups[int(random.integers(len(groups)))] if resample_questions else groups[position]
            chosen = random.integers(len(members), size=len(members))
            np.add.at(draw, np.asarray(members)[chosen], 1 / (len(members) * len(groups)))
    return weights


def _by_question(runs: Sequence[AttemptRun]) -> list[list[int]]:
    groups: dict[str, list[int]] = defaultdict(list)
    for index, run in enumerate(runs):
        groups[run.question_id].append(index)
    return list(groups.values())


def _interval(values: Floats) -> tuple[float, float]:
    low, high = np.quantile(values, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)
