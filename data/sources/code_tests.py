"""The tests of a programming question as `verl.rewards.code_tests` reads them, from the layouts of public sets."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from data.rows import Row
from data.sources.base import NO_TESTS, LeftOut

TIME_LIMIT = 6.0
"""Seconds for each test, where a set states none."""


@dataclass(frozen=True)
class StoredTests:
    """All tests of one question; `outputs[i]` belongs to `inputs[i]`."""

    inputs: list[Any]
    outputs: list[Any]
    testtype: str
    fn_name: str = ""
    time_limit: float = TIME_LIMIT

    def to_json(self) -> str:
        return json.dumps(asdict(self), ensure_ascii=False)


def from_pairs(
    inputs: Sequence[Any], outputs: Sequence[Any], fn_name: str, time_limit: float = TIME_LIMIT
) -> StoredTests:
    """Tests from inputs and outputs as they are stored; functional ones when there is a function to call.

    Functional tests come in two layouts: inputs and outputs are JSON texts, or they are the values themselves. Sets of
    the second kind often wrap every returned value of a question in a list of one, which is taken off.
    """
    if not fn_name:
        return StoredTests([_text(i) for i in inputs], [_text(o) for o in outputs], "stdin", "", time_limit)
    if all(isinstance(i, str) for i in inputs):
        return StoredTests(list(inputs), [_text(o) for o in outputs], "functional", fn_name, time_limit)
    if all(isinstance(output, list) and len(output) == 1 for output in outputs):
        outputs = [output[0] for output in outputs]
    values = [json.dumps(output, ensure_ascii=False) for output in outputs]
    return StoredTests([_arguments(i) for i in inputs], values, "functional", fn_name, time_limit)


def from_object(tests: Row, time_limit: float = TIME_LIMIT) -> StoredTests | LeftOut:
    """Tests from an object of `inputs`, `outputs` and sometimes `fn_name`, the layout of APPS and TACO."""
    if not tests.values.get("inputs"):
        return NO_TESTS
    inputs, outputs = tests.array("inputs"), tests.array("outputs")
    if len(inputs) != len(outputs):
        return LeftOut("tests without an output")
    return from_pairs(inputs, outputs, tests.text_or_none("fn_name") or "", time_limit)


def from_cases(cases: Sequence[Row], fn_name: str = "", time_limit: float = TIME_LIMIT) -> StoredTests:
    """Tests from a list of `{input, output, ...}`; each may name the function as well (`fn_name`)."""
    for case in cases:
        fn_name = fn_name or case.text_or_none("fn_name") or ""
        for column in ("input", "output"):
            if column not in case.values:
                raise case.problem(column, "a value")
    return from_pairs([c.values["input"] for c in cases], [c.values["output"] for c in cases], fn_name, time_limit)


def _text(value: Any) -> str:
    """Some sets store lines instead of a text."""
    if isinstance(value, list):
        return "\n".join(_text(line) for line in value)
    return value if isinstance(value, str) else json.dumps(value)


def _arguments(value: Any) -> Any:
    """Positional arguments as one JSON value per line, keyword arguments as they are."""
    if isinstance(value, dict):
        return value
    arguments = value if isinstance(value, list) else [value]
    return "\n".join(json.dumps(argument, ensure_ascii=False) for argument in arguments)
