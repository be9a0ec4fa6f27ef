"""DeepCoder's training parts: PrimeIntellect, TACO and LiveCodeBench v5, each with its own layout of tests."""

from __future__ import annotations

from data.rows import Row
from data.schema import Question
from data.sources.base import NO_TESTS, Hub, LeftOut, Source
from data.sources.code_question import code_question
from data.sources.code_tests import StoredTests, from_cases, from_object


def _convert(row: Row) -> Question | LeftOut:
    stored = Row(row.where, {"tests": row.parsed("tests")})
    is_object = isinstance(stored.values["tests"], dict)  # TACO
    tests = from_object(stored.nested("tests")) if is_object else _from_list(row, stored)
    if isinstance(tests, LeftOut):
        return tests
    return code_question(row.text("problem"), tests, "deepcoder", starter=row.text_or_none("starter_code") or "")


def _from_list(row: Row, stored: Row) -> StoredTests | LeftOut:
    cases = stored.nested_rows("tests")
    fn_name = row.nested("metadata").text_or_none("func_name") if row.values.get("metadata") else None
    return from_cases(cases, fn_name or "") if cases else NO_TESTS


SOURCE = Source(
    Hub("agentica-org/DeepCoder-Preview-Dataset", "train", configs=("primeintellect", "taco", "lcbv5")),
    ("problem", "tests", "starter_code", "metadata"),
    _convert,
)
