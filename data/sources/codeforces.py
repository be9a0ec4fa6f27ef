"""Codeforces: problems that can be judged by comparing outputs.

The editorial is not part of the problem (it gives the solution away), nor are the examples (they are among the tests).
"""

from __future__ import annotations

from data.rows import Row
from data.schema import Question
from data.sources.base import NO_TESTS, Hub, LeftOut, Source
from data.sources.code_question import code_question
from data.sources.code_tests import from_cases
from data.sources.contest_problem import contest_problem

_COLUMNS = ("description", "input_format", "output_format", "note", "interaction_format", "input_mode", "time_limit")


def _convert(row: Row) -> Question | LeftOut:
    if row.text_or_none("interaction_format") or row.text_or_none("input_mode") not in (None, "stdio"):
        return LeftOut("interactive, or with files for input and output")
    if row.values.get("generated_checker"):
        return LeftOut("several right outputs, judged by a checker of their own")
    if not row.values.get("official_tests"):
        return NO_TESTS
    tests = from_cases(row.nested_rows("official_tests"), time_limit=row.seconds("time_limit", 1))
    description = row.text_or_none("description") or ""
    if not description.strip():
        return LeftOut("no description")
    problem = contest_problem(description, row, "input_format", "output_format", "note")
    return code_question(problem, tests, "codeforces", description=description, elo=row.number_or_none("rating"))


SOURCE = Source(
    Hub("open-r1/codeforces", "test", configs=("verifiable",)),
    (*_COLUMNS, "rating", "official_tests", "generated_checker"),
    _convert,
)
