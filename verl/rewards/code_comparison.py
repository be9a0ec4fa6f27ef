"""Whether a program's answer is the expected one: printed text line by line, returned values as JSON.

Numbers are compared by value only where one of them is not written as an integer. Integers stay exact however large
they are: a counting problem answered modulo 1,000,000,007 is not right because it is nearly right.
"""

from __future__ import annotations

import math
import re
from typing import Any

TOLERANCE = 1e-6
_ROUNDING_ERROR = 1e-9
"""What is left of a zero after a calculation: no relative tolerance reaches from 0.0 to 1e-17."""
_BLANKS = re.compile(r"(\s+)")
_INTEGER = re.compile(r"[+-]?[0-9]+")
_NUMBER = re.compile(r"[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]+)?")
_MAX_NUMBER = 1000
"""Characters; what is longer is compared as text, since a program may print millions of digits to keep us busy."""


def same_output(actual: str, expected: str) -> bool:
    """Whether printed text is the expected one.

    White space around the text and at the end of lines does not count, nor does a `-` at the end of the expected text
    (a mark of some data sets). Lines must agree in number and, word by word, in text or in value; blanks inside a line
    are text.
    """
    wanted = expected.strip()
    if _same_lines(actual, wanted):
        return True
    unmarked = wanted.removesuffix("-").rstrip()
    return bool(unmarked) and unmarked != wanted and _same_lines(actual, unmarked)


def same_value(actual: Any, expected: Any) -> bool:
    """Whether a returned JSON value is the expected one: same structure, numbers by value (1 and 1.0 are the same).

    A boolean is no number: JSON's true is not 1.
    """
    if isinstance(actual, bool) or isinstance(expected, bool):
        return actual is expected
    if isinstance(actual, int | float) and isinstance(expected, int | float):
        is_integer = isinstance(actual, int) or isinstance(expected, int)
        return actual == expected or _close(actual, expected, is_integer)
    if isinstance(actual, list) and isinstance(expected, list):
        return len(actual) == len(expected) and all(map(same_value, actual, expected))
    if isinstance(actual, dict) and isinstance(expected, dict):
        return actual.keys() == expected.keys() and all(same_value(actual[key], expected[key]) for key in expected)
    return actual == expected


def _same_lines(actual: str, expected: str) -> bool:
    """Compare texts whose surrounding white space does not count."""
    lines, wanted_lines = actual.strip().split("\n"), expected.strip().split("\n")
    return len(lines) == len(wanted_lines) and all(map(_same_line, lines, wanted_lines))


def _same_line(actual: str, expected: str) -> bool:
    if actual.rstrip() == expected.rstrip():
        return True
    words, wanted_words = _BLANKS.split(actual.rstrip()), _BLANKS.split(expected.rstrip())
    return len(words) == len(wanted_words) and all(map(_same_word, words, wanted_words))


def _same_word(actual: str, expected: str) -> bool:
    if actual == expected:
        return True
    is_short = max(len(actual), len(expected)) <= _MAX_NUMBER
    if not (is_short and _NUMBER.fullmatch(actual) and _NUMBER.fullmatch(expected)):
        return False
    num_integers = sum(_INTEGER.fullmatch(word) is not None for word in (actual, expected))
    return num_integers < 2 and _close(float(actual), float(expected), num_integers > 0)


def _close(actual: float, expected: float, is_integer: bool) -> bool:
    """Whether two numbers agree within 1e-6: relatively, or absolutely if one of them is an integer."""
    if isinstance(actual, int) and isinstance(expected, int):
        return actual == expected
    try:
        a, b = float(actual), float(expected)
    except OverflowError:  # an integer beyond the range of floats
        return False
    if not (math.isfinite(a) and math.isfinite(b)):
        return False
    return abs(a - b) <= TOLERANCE if is_integer else math.isclose(a, b, rel_tol=TOLERANCE, abs_tol=_ROUNDING_ERROR)
