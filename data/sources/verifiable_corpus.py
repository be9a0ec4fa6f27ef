"""The training corpus of the reference's authors: mathematics and programming from several sets.

Each row names the set it comes from. That name is its `data_source` where `verl.rewards` has a scorer for it; else its
kind is, and rows of a kind without a scorer are left out.
"""

from __future__ import annotations

from dataclasses import replace

from data.rows import Row
from data.schema import Question, check_tests
from data.sources.base import Hub, LeftOut, Source
from data.sources.code_question import code_question
from data.sources.code_tests import StoredTests
from data.sources.math_question import math_question
from verl.rewards import SCORERS
from verl.rewards.code_tests import DEFAULT_TIME_LIMIT


def _convert(row: Row) -> Question | LeftOut:
    kind = row.text("kind")
    data_source = next((name for name in (row.text("dataset"), kind) if SCORERS.problem(name) is None), None)
    if data_source is None:
        return LeftOut(f"no scorer for the kind {kind!r}")
    if kind == "code":
        question = code_question(row.text("problem"), _tests(row), data_source)
    else:
        question = replace(math_question(row.text("problem"), row.text_or_number("answer"), data_source), kind=kind)
    if isinstance(question, LeftOut):
        return question
    description = row.text_or_none("description") or question.description
    return replace(question, description=description, elo=row.number_or_none("elo"))


def _tests(row: Row) -> StoredTests:
    values = check_tests(row)
    limit = values.get("time_limit") or DEFAULT_TIME_LIMIT  # of the scorer, so that the prompt states what is true
    return StoredTests(values["inputs"], values["outputs"], values["testtype"], values.get("fn_name") or "", limit)


SOURCE = Source(
    Hub("lasgroup/verifiable-corpus", "train"),
    ("kind", "dataset", "problem", "description", "answer", "tests", "elo"),
    _convert,
    category="kind",
)
