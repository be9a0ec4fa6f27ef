"""Logs of attempts as a table: discovery@k of each method, and how many attempts a question took.

Works from files alone, like `verl.trainer.report`. Methods are told apart by the header of their logs, or by a label of
the user's own.
"""

from __future__ import annotations

from collections.abc import Sequence

from verl.evaluation.attempts import AttemptLog
from verl.evaluation.discovery import LEVEL, Discovery

LABELS = {"sdpo": "SDPO", "multiturn": "multi-turn", "best_of_k": "best-of-k"}
"""What the methods of logs are called in tables."""


def group_logs(labelled: Sequence[tuple[str | None, AttemptLog]]) -> dict[str, list[AttemptLog]]:
    """Logs by label; without a label of its own, a log counts for the method in its header."""
    groups: dict[str, list[AttemptLog]] = {}
    for label, log in labelled:
        groups.setdefault(label or LABELS[log.header.method], []).append(log)
    return groups


def common_budget(methods: Sequence[Discovery]) -> int:
    """The largest k that is known for all methods."""
    return min(method.budget for method in methods)


def columns(methods: Sequence[Discovery]) -> list[int]:
    """The k of the table: powers of two, and the common budget."""
    longest = max(method.budget for method in methods)
    powers = {2**exponent for exponent in range(longest.bit_length())}
    return sorted(powers | {common_budget(methods)})


def discovery_table(methods: Sequence[Discovery]) -> str:
    """One row for each method, as markdown; in per cent, with the interval where there is more than one run."""
    budget, counts = common_budget(methods), columns(methods)
    head = ["method", "questions", "runs", *(f"@{k}" for k in counts), f"mean attempts (of {budget})"]
    lines = [f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
    for method in methods:
        cells = [method.label, str(len(method.questions)), str(len(method.runs))]
        for k in counts:
            cells.append(_cell(*(100 * value for value in method.at(k))) if k <= method.budget else "-")
        lines.append(f"| {' | '.join([*cells, _cell(*method.mean_attempts(budget))])} |")
    return "\n".join(lines)


def _cell(mean: float, low: float, high: float) -> str:
    return f"{mean:.1f}" if low == high else f"{mean:.1f} [{low:.1f}-{high:.1f}]"


def discovery_notes(methods: Sequence[Discovery], resample_questions: bool) -> list[str]:
    """What a reader of the table must know, one sentence each."""
    budget = common_budget(methods)
    drawn = "questions and seeds" if resample_questions else "the seeds of each question"
    notes = [
        f"discovery@k in per cent, the mean over questions [{LEVEL:.0%} bootstrap interval over {drawn}].",
        f"Mean attempts: until solved; a run that was not solved within {budget} attempts counts as {budget}.",
    ]
    for method in methods:
        if (run := method.shortest) and method.budget < max(other.budget for other in methods):
            notes.append(
                f"The curve of {method.label} ends at {method.budget}: question {run.question_id} with seed {run.seed}"
                " has no more attempts."
            )
    every = set[str]().union(*(method.questions for method in methods))
    for method in methods:
        if missing := sorted(every - method.questions):
            notes.append(f"{method.label} has no attempts at {', '.join(missing)}, others have: do not compare them.")
    return notes
