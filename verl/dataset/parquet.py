"""Read parquet rows and say exactly what is wrong with them: file, row, column, what was found, what is expected."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from verl.types import InputError, Message

ROLES = ("user", "assistant", "system", "developer", "tool", "function", "environment", "ipython", "observation")
"""Of chat templates of the hub. Some templates pass over a role that they do not know, and the turn is gone."""

MEDIA = ("images", "videos", "audios")
"""verl's columns of what is not text; prompts would be trained on without it."""

NUM_ROWS_WORTH_A_BAR = 2000
"""Fewer rows are tokenised before anybody would read a progress bar."""


class SchemaError(InputError):
    """A file or a row that does not have the expected form."""


@dataclass(frozen=True)
class RawRow:
    """One row as it stands in its file."""

    file: str
    number: int
    """Position in the file; the first row is 0."""
    values: dict[str, Any]

    def __str__(self) -> str:
        return f"{self.file}, row {self.number} (the first is 0)"

    def problem(self, column: str, found: Any, expected: str) -> SchemaError:
        """An error about one value of this row."""
        text = repr(found)
        shown = text if len(text) <= 200 else f"{text[:200]}... ({len(text)} characters)"
        return SchemaError(f"{self}, column {column!r}: found {shown}, expected {expected}.")


def read_rows(files: Sequence[str], columns: Sequence[str], optional: Sequence[str] = ()) -> Iterator[RawRow]:
    """Yield the rows of parquet files, reading only the named columns.

    Raises:
        SchemaError: a file is missing or unreadable, lacks one of `columns` (those of `optional` may be absent), has
            one of them twice, or has images, audio or video beside them.
    """
    for file in files:
        path = Path(file).expanduser()
        if not path.is_file():
            raise SchemaError(
                f"{file}: no such file. data/preprocess.py makes parquet files from train.json, test.json."
            )
        try:
            parquet = pq.ParquetFile(path)
        except (pa.ArrowException, OSError) as error:
            raise SchemaError(f"{file}: is not a parquet file ({error}).") from error
        present = parquet.schema_arrow.names
        if missing := [column for column in columns if column not in present]:
            raise SchemaError(f"{file}: lacks column {', '.join(missing)}; it has {', '.join(present)}.")
        used = [column for column in [*columns, *optional] if column in present]
        if twice := [column for column in used if present.count(column) > 1]:
            raise SchemaError(
                f"{file}: has the column {', '.join(twice)} more than once; which is meant cannot be told."
            )
        for column in set(present) & set(MEDIA):
            for row in _read_file(file, parquet, [column]):
                if row.values[column]:
                    raise SchemaError(f"{row}, column {column!r}: images, audio and video are not supported.")
        yield from _read_file(file, parquet, used)


def _read_file(file: str, parquet: pq.ParquetFile, columns: Sequence[str]) -> Iterator[RawRow]:
    number = 0
    batches = parquet.iter_batches(columns=list(columns))
    while True:
        try:
            batch = next(batches, None)
            rows = batch.to_pylist() if batch is not None else []
        except UnicodeDecodeError as error:
            raise SchemaError(f"{file}: after row {number}, a text is not UTF-8 ({error}).") from error
        except (pa.ArrowException, OSError) as error:
            raise SchemaError(f"{file}: after row {number}, the file is damaged ({error}). Make it anew.") from error
        if batch is None:
            return
        for values in rows:
            yield RawRow(file, number, values)
            number += 1


def read_messages(row: RawRow, column: str) -> list[Message]:
    """The chat of a row. Raises SchemaError when it is not a list of messages with text."""
    found = row.values[column]
    expected = "a list of messages, each with a role and a content (both text)"
    if not isinstance(found, list) or not found:
        raise row.problem(column, found, expected)
    for message in found:
        if not isinstance(message, Mapping) or not isinstance(message.get("role"), str):
            raise row.problem(column, message, expected)
        if not isinstance(message.get("content"), str):
            raise row.problem(column, message.get("content"), f"{expected}; images, audio and video are not supported")
        if message["role"] not in ROLES:
            near = difflib.get_close_matches(message["role"], ROLES, 1)
            hint = f" (did you mean {near[0]!r}?)" if near else ""
            raise row.problem(column, message["role"], f"a role, one of {', '.join(ROLES)}{hint}")
    last = found[-1]
    if last["role"] in ("system", "developer", "assistant"):
        raise row.problem(column, last["role"], "the last message to be one that is answered: role user, or a tool's")
    if not last["content"].strip():
        raise row.problem(column, last["content"], "the last message to hold text")
    return [{"role": message["role"], "content": message["content"]} for message in found]


def read_text(row: RawRow, column: str) -> str:
    """A text of a row. Raises SchemaError when it is missing, blank or something else."""
    found = row.values[column]
    if not isinstance(found, str) or not found.strip():
        raise row.problem(column, found, "a text")
    return found
