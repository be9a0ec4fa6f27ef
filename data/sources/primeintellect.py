"""Verifiable coding problems of PrimeIntellect (SYNTHETIC-1): the Python ones.

The stored prompt is wrapped in instructions of its own, which are taken off: ours name the real time limit.
"""

from __future__ import annotations

import ast
import re
from typing import Any

from data.rows import Row
from data.schema import Question
from data.sources.base import NO_TESTS, Hub, LeftOut, Source
from data.sources.code_question import code_question
from data.sources.code_tests import from_cases

_WRAPPING = re.compile(
    r"\A\s*Solve the following coding problem using the programming language \w+:\s*"
    r"|\s*The input will be (?:given via stdin|stdin).*\Z"
    r"|\s*Now solve the problem (?:and return|by providing) the code\.?\s*\Z",
    re.DOTALL,
)


def _convert(row: Row) -> Question | LeftOut:
    info = Row(row.where, _verification(row), "verification_info.")
    if (info.text_or_none("language") or "python").lower() != "python":
        return LeftOut("another language than Python")
    if not info.values.get("test_cases"):
        return NO_TESTS
    problem = _WRAPPING.sub("", row.text("prompt"))
    return code_question(problem, from_cases(info.nested_rows("test_cases")), "primeintellect")


def _verification(row: Row) -> Any:
    """An object, as JSON or as Python writes it: the set holds both."""
    column = "verification_info"
    try:
        return ast.literal_eval(row.text(column))
    except (ValueError, SyntaxError):
        return row.nested(column).values


SOURCE = Source(Hub("PrimeIntellect/verifiable-coding-problems", "train"), ("prompt", "verification_info"), _convert)
