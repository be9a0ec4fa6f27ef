"""Test questions that are in the training set too, and their removal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

Rows = Sequence[Mapping[str, Any]]
COLUMNS = {"description": "question", "prompt": "whole prompt"}
"""What makes two rows alike, and its name: the stem alone (options may differ), or the prompt."""


def report(train: Rows, test: Rows) -> str:
    """One sentence with the number of test rows whose question, and whose whole prompt, is also in train."""
    counts = []
    for column, name in COLUMNS.items():
        known = {_key(row, column) for row in train}
        counts.append(f"{sum(_key(row, column) in known for row in test)} have their {name} in train")
    return f"overlap: of {len(test)} test rows, {' and '.join(counts)}"


def without_test_questions(train: Rows, test: Rows) -> list[Mapping[str, Any]]:
    """The train rows that share neither question nor prompt with any test row."""
    known = {(column, _key(row, column)) for row in test for column in COLUMNS}
    return [row for row in train if not any((column, _key(row, column)) in known for column in COLUMNS)]


def _key(row: Mapping[str, Any], column: str) -> str:
    """Case counts (formulas differ by it), white space does not."""
    return " ".join(row[column].split())
