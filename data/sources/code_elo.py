"""CodeElo: Codeforces problems of 2024.

The set has no tests but the examples of the statement, so they are not shown in the problem.
"""

from __future__ import annotations

from data.rows import Row
from data.schema import Question
from data.sources.base import NO_TESTS, Hub, LeftOut, Source
from data.sources.code_question import code_question
from data.sources.code_tests import from_pairs
from data.sources.contest_problem import contest_problem


def _convert(row: Row) -> Question | LeftOut:
    if row.text_or_none("interaction"):
        return LeftOut("interactive")
    examples = row.array("examples")
    if not examples:
        return NO_TESTS
    if not all(isinstance(example, list) and len(example) == 2 for example in examples):
        raise row.problem("examples", "a list of [input, output]")
    inputs, outputs = zip(*examples, strict=True)
    tests = from_pairs(inputs, outputs, "", time_limit=row.seconds("time_limit_ms", 1000) / 1000)
    description = row.text("description")
    problem = contest_problem(description, row, "input", "output", "note")
    return code_question(problem, tests, "code_elo", description=description, elo=row.number_or_none("rating"))


SOURCE = Source(
    Hub("Qwen/CodeElo", "test"),
    ("description", "input", "output", "note", "interaction", "examples", "time_limit_ms", "rating"),
    _convert,
)
