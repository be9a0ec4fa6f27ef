"""The tests of a programming task: the ground truth of a row, read once and checked.

    {"inputs": [...], "outputs": [...], "testtype": "stdin" | "functional" | "code", "fn_name": "", "time_limit": 1}

`stdin` tests feed a program text and read what it prints; `functional` ones call `fn_name`, with one JSON value per
line as positional arguments (or a list of them), or with an object as keyword arguments; `code` ones run further
statements after the program, which raise if it is wrong. Other keys are passed over.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, cast

DEFAULT_TIME_LIMIT = 1.0
"""Seconds, for tests that name none."""

Kind = Literal["stdin", "functional", "code"]


class TestsError(ValueError):
    """A ground truth that holds no readable tests."""

    __test__ = False  # pytest collects classes by their name


@dataclass(frozen=True)
class Case:
    """One test."""

    number: int
    """From 1."""
    input: str
    """As it is shown: the text to be read, the arguments, or the statements."""
    expected: Any
    """stdin: text; functional: JSON value; code: nothing."""
    expected_text: str = ""
    """As it is shown."""
    arguments: list[Any] | dict[str, Any] | None = None
    """functional: positional or keyword arguments."""


@dataclass(frozen=True)
class Tests:
    """All tests of a task."""

    __test__ = False

    kind: Kind
    cases: list[Case]
    function: str = ""
    """functional: what is called."""
    time_limit: float = DEFAULT_TIME_LIMIT
    """Seconds for each test."""


def read_tests(ground_truth: str | Mapping[str, Any]) -> Tests:
    """Read a ground truth: JSON text, or the object itself.

    Raises TestsError saying what is wrong with it.
    """
    try:
        values = json.loads(ground_truth) if isinstance(ground_truth, str) else ground_truth
    except (ValueError, RecursionError) as error:
        raise TestsError(f"the tests are not JSON: {error}") from error
    if not isinstance(values, Mapping):
        raise TestsError(f"the tests are a {type(values).__name__}; they must be an object with inputs and outputs.")
    kind, function, time_limit = values.get("testtype"), values.get("fn_name") or "", values.get("time_limit")
    if kind not in ("stdin", "functional", "code"):
        raise TestsError(f"testtype is {kind!r}; it must be 'stdin', 'functional' or 'code'.")
    if kind == "functional" and not (isinstance(function, str) and function.isidentifier()):
        raise TestsError(f"fn_name is {function!r}; a functional test must name the function it calls.")
    if time_limit is None:
        time_limit = DEFAULT_TIME_LIMIT
    if isinstance(time_limit, bool) or not isinstance(time_limit, int | float) or not 0 < time_limit < float("inf"):
        raise TestsError(f"time_limit is {time_limit!r}; it must be a number of seconds above 0.")
    inputs, outputs = values.get("inputs"), values.get("outputs")
    if kind == "code" and isinstance(inputs, list):
        outputs = [""] * len(inputs)  # the statements themselves say what is right
    if not isinstance(inputs, list) or not isinstance(outputs, list) or len(inputs) != len(outputs):
        raise TestsError("inputs and outputs must be two lists of the same length.")
    read = _functional_case if kind == "functional" else _text_case
    cases = [read(number, *pair) for number, pair in enumerate(zip(inputs, outputs, strict=True), 1)]
    return Tests(cast(Kind, kind), cases, function, float(time_limit))


def _text_case(number: int, given: Any, expected: Any) -> Case:
    if not isinstance(given, str) or not isinstance(expected, str):
        raise TestsError(f"test {number}: input and output must be texts.")
    return Case(number, given, expected, expected.strip())


def _functional_case(number: int, given: Any, expected: Any) -> Case:
    if isinstance(given, list | dict):
        arguments, shown = given, as_json(given)
    elif isinstance(given, str):
        arguments, shown = _positional(number, given), given
    else:
        raise TestsError(f"test {number}: the input is {given!r}; it must be JSON lines, a list or an object.")
    if isinstance(expected, str):
        return Case(number, shown, _json_or_text(expected), expected.strip(), arguments)
    return Case(number, shown, expected, as_json(expected), arguments)


def _positional(number: int, text: str) -> list[Any]:
    """One JSON value per line; a single value may also be spread over several lines."""
    try:
        return [json.loads(line) for line in text.splitlines() if line.strip()]
    except ValueError:
        try:
            return [json.loads(text)]
        except ValueError as error:
            raise TestsError(f"test {number}: the input is not one JSON value per line: {error}") from error


def _json_or_text(text: str) -> Any:
    """A JSON value; what is not JSON stands for itself as text."""
    try:
        return json.loads(text)
    except ValueError:
        return text


def as_json(value: Any) -> str:
    """A JSON value as it is shown, in the language the expected value is written in."""
    try:
        return json.dumps(value, ensure_ascii=False)
    except (TypeError, ValueError, RecursionError):  # too deep, or an integer of thousands of digits
        return "..."
