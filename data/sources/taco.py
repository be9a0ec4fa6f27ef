"""TACO: contest problems with the tests of their sites, on standard input or by calling a function."""

from __future__ import annotations

import re

from data.rows import Row
from data.schema import Question
from data.sources.base import Hub, LeftOut, Source
from data.sources.code_question import code_question
from data.sources.code_tests import TIME_LIMIT, from_object


def _convert(row: Row) -> Question | LeftOut:
    limit = re.match(r"\s*(\d+(?:\.\d+)?)\s*second", row.text_or_none("time_limit") or "")
    seconds = float(limit[1]) if limit and float(limit[1]) > 0 else TIME_LIMIT
    tests = from_object(row.nested("input_output"), seconds)
    if isinstance(tests, LeftOut):
        return tests
    starter = row.text_or_none("starter_code") or ""
    if starter.strip() and not tests.fn_name:
        return LeftOut("code to complete, without the name of the function")
    return code_question(row.text("question"), tests, "taco", starter=starter)


SOURCE = Source(
    Hub("BAAI/TACO", "train", files="ALL/train-*.parquet"),
    ("question", "input_output", "starter_code", "time_limit"),
    _convert,
)
