"""The description of a programming problem ends where its formats and examples begin."""

import pytest

from data.utils.code import parse_description

STORY = "You are given an array of numbers.\nFind the largest."


@pytest.mark.parametrize(
    "separator",
    [
        "Input", "Input:", "INPUT", "-----Input-----", "**Input**", "### Input Format", "Input Specification:",
        "Input: nums = [1, 2]", "Example", "Examples:", "Example 1:", "**Example 1:**", "Sample Input",
        "Sample Input 1", "Standard Input", "```", "```python", "~~~", "---", "* * *", "_____", "=====", ">>> f(1)",
        "Input description follows here",
    ],
)  # fmt: skip
def test_the_first_separator_ends_it(separator):
    assert parse_description(f"{STORY}\n\n{separator}\n1 2\n\nOutput\n3") == STORY


@pytest.mark.parametrize(
    "line",
    ["Inputs larger than 5 are bad.", "Examples of this are rare.", "The input is small.", "a - b", "--", "x = 1"],
)
def test_prose_is_no_separator(line):
    assert parse_description(f"{STORY}\n{line}") == f"{STORY}\n{line}"


def test_too_short_is_empty():
    assert parse_description("Add.\nInput:\n1") == ""
    assert parse_description("Input:\n1") == ""
    assert parse_description("Add.\nInput:\n1", min_length=4) == "Add."
    assert parse_description("0123456789") == "0123456789"


def test_long_lines_take_no_time():
    """Backtracking over long lines would."""
    for long in (" " * 10**5, "-=" * 10**5, "input" * 10**5, "* " * 10**4 + "a"):
        parse_description(f"{STORY}\n{long} x\n{long}")
