"""LiveCodeBench v6: the 131 questions of contests from February to April 2025.

Hidden tests are stored as base64 of zlib of a pickle of a JSON text. A pickle can run any code when it is read, so this
one is read by an unpickler that knows no names, and must hold a text.
"""

from __future__ import annotations

import base64
import binascii
import io
import pickle
import textwrap
import zlib
from datetime import date, datetime
from typing import Any

from data.rows import Row
from data.schema import Question
from data.sources.base import NO_TESTS, Hub, LeftOut, Source
from data.sources.code_question import code_question
from data.sources.code_tests import from_cases

_FIRST, _AFTER = date(2025, 2, 1), date(2025, 5, 1)
_MAX_BYTES = 2**30
"""Of hidden tests, unpacked: a packed bomb must not fill the memory."""
_CLASS = "class Solution:"


class _TextUnpickler(pickle.Unpickler):
    def find_class(self, module_name: str, global_name: str) -> Any:
        raise pickle.UnpicklingError(f"it refers to {module_name}.{global_name}")


def _convert(row: Row) -> Question | LeftOut:
    if not _FIRST <= _contest_date(row) < _AFTER:
        return LeftOut(f"contests before {_FIRST} or from {_AFTER} on")
    cases = [*row.nested_rows("public_test_cases"), *_hidden_tests(row)]
    if not cases:
        return NO_TESTS
    fn_name = row.nested("metadata").text_or_none("func_name") or ""
    tests = from_cases(cases, fn_name, time_limit=6)
    starter = _signature(row.text_or_none("starter_code") or "")
    return code_question(row.text("question_content"), tests, "livecodebench", starter=starter)


def _contest_date(row: Row) -> date:
    value = row.values.get("contest_date")
    if isinstance(value, datetime):
        return value.date()
    try:
        return datetime.fromisoformat(row.text("contest_date")).date()
    except ValueError as error:
        raise row.problem("contest_date", "a date such as 2025-02-01T00:00:00") from error


def _hidden_tests(row: Row) -> list[Row]:
    column = "private_test_cases"
    value = row.parsed(column)
    if isinstance(value, str):
        value = _unpacked(row, column)
    return Row(row.where, {column: value}).nested_rows(column)


def _unpacked(row: Row, column: str) -> str:
    """The JSON text inside. Raises DataError for anything else, without running what it holds."""
    expected = "a JSON list, or base64 of zlib of a pickled JSON text"
    try:
        unpacker = zlib.decompressobj()
        packed = unpacker.decompress(base64.b64decode(row.text(column), validate=True), _MAX_BYTES)
        text = _TextUnpickler(io.BytesIO(packed)).load()
    except (binascii.Error, zlib.error, pickle.UnpicklingError, EOFError, ValueError, IndexError) as error:
        raise row.problem(column, f"{expected}; it cannot be unpacked: {error}") from error
    if not isinstance(text, str) or unpacker.unconsumed_tail:
        raise row.problem(column, f"{expected} of at most {_MAX_BYTES} bytes")
    return text


def _signature(starter: str) -> str:
    """The function alone: the method of a class becomes a plain function (preprocessing takes `self` away)."""
    before, is_method, after = starter.partition(_CLASS)
    return before + textwrap.dedent(after.lstrip("\n")) if is_method else starter


SOURCE = Source(
    Hub("livecodebench/code_generation_lite", "test", revision="refs/pr/6"),
    ("question_content", "starter_code", "contest_date", "public_test_cases", "private_test_cases", "metadata"),
    _convert,
)
