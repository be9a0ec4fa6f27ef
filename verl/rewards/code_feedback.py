"""What a failing program is told: the exact text a teacher reads, within 2,000 characters.

The first kind of failure that occurred speaks: an error, a time-out, a missing program, else up to two wrong answers,
the shortest first, because a small counterexample is read more easily. When the text would be too long, inputs give way
first (then debug output): what the program printed against what was expected is the part that teaches.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from verl.sandbox import ErrorReport

MAX_CHARACTERS = 2000
MAX_INPUT_LINES, MAX_INPUT_LINE = 8, 250
MAX_ANSWER = 250
MAX_DEBUG_LINES, MAX_DEBUG_LINE = 10, 300
MAX_NAME = 100
"""Characters of an error's type or a function's name: programs choose these names themselves."""
MAX_FRAMES = 3
MAX_CASES = 2

FORMAT_FEEDBACK = "Incorrect Format: Put your code inside a ```python ... ``` block."
TRUNCATION_FEEDBACK = (
    "Truncated Attempt: Your previous response was too long and truncated because it reached the maximum response"
    " length. Try again with a shorter response."
)
UNREADABLE_TESTS_FEEDBACK = "Failed to parse ground truth test cases."
NO_TESTS_FEEDBACK = "No test execution information available."

Verdict = Literal["passed", "wrong", "error", "timeout", "format", "not run"]


@dataclass(frozen=True)
class CaseResult:
    """What became of one test."""

    verdict: Verdict
    listed: str
    """How it is listed in `pred`: the printed text, the returned value, or a word about the failure, as Python writes
    it, and only its end if it is long."""
    number: int = 0
    """Of the test, from 1."""
    input: str = ""
    actual: str = ""
    """The answer as it is shown, and only its beginning if it is long."""
    expected: str = ""
    error: ErrorReport | None = None
    debug: list[str] = field(default_factory=list)
    """Lines that the program gave to `debug_print`."""


def format_test_feedback(results: Sequence[CaseResult], is_truncated: bool = False) -> str:
    """The feedback to a program's results; "" when all tests passed.

    Args:
        results: one for each test, in order.
        is_truncated: the response reached its maximum length.
    """
    if not results:
        return NO_TESTS_FEEDBACK
    by_verdict: dict[str, list[CaseResult]] = defaultdict(list)
    for result in results:
        by_verdict[result.verdict].append(result)
    if errors := by_verdict["error"]:
        return _fit(_runtime_error(errors[0]))
    if timeouts := by_verdict["timeout"]:
        return _fit([*_TIME_OUT, (_FIRST, _input_text(timeouts[0]))])
    if by_verdict["format"]:
        return TRUNCATION_FEEDBACK if is_truncated else FORMAT_FEEDBACK
    shortest = sorted(by_verdict["wrong"], key=lambda result: len(result.input) + len(result.actual))
    pieces: list[_Piece] = []
    for result in shortest[:MAX_CASES]:
        pieces += [*([(_NEVER, "\n\n")] if pieces else []), *_wrong_answer(result)]
    return _fit(pieces)


_NEVER, _FIRST, _SECOND = 0, 1, 2
"""When a piece of the text gives way."""
_Piece = tuple[int, str]
_TIME_OUT: list[_Piece] = [(_NEVER, "Time Limit Exceeded\n\nLast Executed Input\n")]


def _runtime_error(result: CaseResult) -> list[_Piece]:
    error = result.error or ErrorReport("Error", "")
    frames = [
        f"\nLine {line} in {shorten(function, MAX_NAME)} (Solution.py)" for line, function in error.frames[-MAX_FRAMES:]
    ]
    return [
        (_NEVER, f"Runtime Error\n{shorten(error.type, MAX_NAME)}: "),
        (_SECOND, error.message),
        (_NEVER, "".join(frames) + "\n\nLast Executed Input\n"),
        (_FIRST, _input_text(result)),
    ]


def _wrong_answer(result: CaseResult) -> list[_Piece]:
    pieces = [
        (_NEVER, f"Test Case {result.number}: Wrong Answer\n\nInput\n"),
        (_FIRST, _input_text(result)),
        (_NEVER, f"\n\nOutput\n{shorten(result.actual, MAX_ANSWER)}"),
        (_NEVER, f"\n\nExpected\n{shorten(result.expected, MAX_ANSWER)}"),
    ]
    if result.debug:
        debug = _lines(result.debug, MAX_DEBUG_LINES, MAX_DEBUG_LINE)
        pieces += [(_NEVER, "\n\nDebug Output\n"), (_SECOND, debug)]
    return pieces


def _input_text(result: CaseResult) -> str:
    return _lines(result.input.strip("\n").rstrip().split("\n"), MAX_INPUT_LINES, MAX_INPUT_LINE)


def _lines(lines: Sequence[str], max_lines: int, max_characters: int) -> str:
    """The first lines, each cut, and how many more there are."""
    kept = [shorten(line, max_characters) for line in lines[:max_lines]]
    num_more = len(lines) - len(kept)
    return "\n".join([*kept, *([f"... ({num_more} more lines)"] if num_more else [])])


def shorten(text: str, limit: int) -> str:
    """At most `limit` characters (3 or more); a text that was cut ends in `...`."""
    return text if len(text) <= limit else f"{text[: limit - 3]}..."


def _fit(pieces: Sequence[_Piece]) -> str:
    """Join the pieces within `MAX_CHARACTERS`: one rank after the other, the longest of a rank first."""
    for rank in (_FIRST, _SECOND):
        limit = MAX_CHARACTERS
        while sum(len(text) for _, text in pieces) > MAX_CHARACTERS and limit > len("..."):
            limit -= 1
            pieces = [(own, shorten(text, limit) if own == rank else text) for own, text in pieces]
    return "".join(text for _, text in pieces)
