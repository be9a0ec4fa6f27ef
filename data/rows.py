"""One row of a data file, with readers that refuse what does not fit.

Every tool here reads through these, so that a malformed row is always named in the same way: file, row number, column,
what was found and what is expected.
"""

from __future__ import annotations

import json
import math
from typing import Any


class DataError(ValueError):
    """A file, a row or a request that cannot be used; the message is meant for people."""


def shown(value: Any) -> str:
    """A value as it stands in a message: short."""
    text = repr(value)
    return text if len(text) <= 200 else f"{text[:200]}... ({len(text)} characters)"


class Row:
    """One object with columns.

    Args:
        where: file and row number, for messages.
        values: what was read; anything but a dictionary is refused.
        path: of a nested object, the columns that lead to it (`details.`).

    Columns that should hold lists or objects may hold their JSON text instead: CSV cells can hold nothing else.
    """

    def __init__(self, where: str, values: Any, path: str = "") -> None:
        self.where = where
        self.path = path
        if not isinstance(values, dict):
            raise DataError(f"{where}: found {shown(values)}, expected an object with columns.")
        self.values: dict[str, Any] = values

    def problem(self, column: str, expected: str) -> DataError:
        """The error for a column that holds something else than `expected`."""
        found = shown(self.values[column]) if column in self.values else "nothing (the column is missing)"
        return DataError(f"{self.where}, column {self.path + column!r}: found {found}, expected {expected}.")

    def text(self, column: str) -> str:
        """A text that is not blank."""
        value = self.values.get(column)
        if not isinstance(value, str) or not value.strip():
            raise self.problem(column, "a text that is not blank")
        return value

    def text_or_none(self, column: str) -> str | None:
        value = self.values.get(column)
        if not isinstance(value, str | None):
            raise self.problem(column, "a text or null")
        return value

    def text_or_number(self, column: str) -> str:
        """A short answer as text; a whole number may have been stored as a number (42, 42.0)."""
        value = self.values.get(column)
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
            return str(value)
        return self.text(column)

    def number_or_none(self, column: str) -> int | None:
        """A whole number; missing, null and `-` are None."""
        value = self.values.get(column)
        if value is None or value == "-":
            return None
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if not isinstance(value, int) or isinstance(value, bool):
            raise self.problem(column, "a whole number, '-' or null")
        return value

    def seconds(self, column: str, default: float) -> float:
        """A time limit; missing and null are the default."""
        value = self.values.get(column)
        if value is None:
            return default
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
            raise self.problem(column, "a positive number or null")
        return value

    def nested(self, column: str) -> Row:
        """An object."""
        value = self.parsed(column)
        if not isinstance(value, dict):
            raise self.problem(column, "an object or its JSON text")
        return Row(self.where, value, f"{self.path}{column}.")

    def array(self, column: str) -> list[Any]:
        """A list of anything."""
        value = self.parsed(column)
        if not isinstance(value, list):
            raise self.problem(column, "a list or its JSON text")
        return value

    def nested_rows(self, column: str) -> list[Row]:
        """A list of objects."""
        return [Row(self.where, value, f"{self.path}{column}[{i}].") for i, value in enumerate(self.array(column))]

    def texts(self, column: str) -> list[str]:
        """A list of texts, not empty."""
        values = self.array(column)
        if not values or not all(isinstance(value, str) for value in values):
            raise self.problem(column, "a list of texts")
        return values

    def parsed(self, column: str) -> Any:
        """The value, or what it is the JSON text of."""
        value = self.values.get(column)
        if not isinstance(value, str):
            return value
        try:
            return json.loads(value)
        except json.JSONDecodeError:
            return value
