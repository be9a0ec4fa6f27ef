"""Files of responses: what `main_generation` writes and `main_eval` reads.

A file is its input with two more columns, `responses` and `finish_reasons`, lists of the same length. Responses come in
any order and over hours, and parquet cannot grow; so they are kept in `<output>.partial`, JSON Lines: a first line that
says what they are responses to and how they are drawn, then a line for each prompt that is finished. The same command,
started again, goes on with it, and a different one is told what is different. At the end the output is written whole,
beside its place, and moved there.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from verl.dataset.parquet import RawRow, SchemaError, read_rows
from verl.tracking.dump import plain
from verl.types import InputError

RESPONSES = "responses"
FINISH_REASONS = "finish_reasons"


@dataclass(frozen=True)
class Responses:
    """All responses to one prompt."""

    row: int
    """Of the prompt, among the rows of all input files, from 0."""
    texts: list[str]
    finish_reasons: list[str]


class PartialResponses:
    """The responses that are there already, and a file that takes more. Use as a context manager.

    Args:
        output: the file that is to be made in the end.
        settings: everything that the responses depend on, as JSON can say it.

    Raises:
        InputError: the file is there and was begun with other settings.
    """

    def __init__(self, output: Path, settings: Mapping[str, Any]) -> None:
        self.path = output.with_name(f"{output.name}.partial")
        self.done: dict[int, Responses] = {}
        """By row."""
        settings = json.loads(json.dumps(settings))
        self.path.parent.mkdir(parents=True, exist_ok=True)
        if self.path.exists():
            self._continue(settings)
        self._file = self.path.open("ab")
        if not self.path.stat().st_size:
            self._write(settings)

    def __enter__(self) -> PartialResponses:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._file.close()

    def add(self, responses: Responses) -> None:
        """Keep the responses to one prompt; they are with the operating system when this returns."""
        self._write({"row": responses.row, RESPONSES: responses.texts, FINISH_REASONS: responses.finish_reasons})
        self.done[responses.row] = responses

    def _continue(self, settings: Mapping[str, Any]) -> None:
        content = self.path.read_bytes()
        num_bytes = content.rfind(b"\n") + 1  # a line that a kill left unfinished is dropped
        try:
            records = [json.loads(line) for line in content[:num_bytes].split(b"\n")[:-1]]
            before: dict[str, Any] = records[0] if records else dict(settings)
            found = [Responses(record["row"], record[RESPONSES], record[FINISH_REASONS]) for record in records[1:]]
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(f"{self.path} is damaged ({error!r}): remove it to begin anew.") from error
        if other := [key for key, value in settings.items() if before.get(key) != value]:
            changes = "; ".join(f"{key}: {before.get(key)}, now {settings[key]}" for key in other)
            raise InputError(
                f"{self.path} holds responses that were drawn otherwise ({changes}). Remove it to begin anew, or"
                " choose another data.output_path."
            )
        self.done = {responses.row: responses for responses in found}
        os.truncate(self.path, num_bytes)

    def _write(self, record: Mapping[str, Any]) -> None:
        self._file.write((json.dumps(record, ensure_ascii=False) + "\n").encode("utf-8"))
        self._file.flush()


def check_columns(files: Sequence[str]) -> None:
    """Raises InputError when a file has responses already."""
    for file in files:
        if taken := {RESPONSES, FINISH_REASONS} & set(pq.read_schema(Path(file).expanduser()).names):
            raise InputError(
                f"data.path={file}: has a column {', '.join(sorted(taken))} already: it is a file of responses."
                " Name the prompts, or take the column out."
            )


def write_responses(output: Path, files: Sequence[str], found: Sequence[Responses]) -> None:
    """Write the rows of `files` that have responses, with these as further columns: parquet or, by suffix, JSON Lines.

    Args:
        found: in the order in which the rows shall stand.
    """
    tables = [pq.read_table(Path(file).expanduser()) for file in files]
    table = pa.concat_tables(tables, promote_options="default").take([responses.row for responses in found])
    table = table.append_column(RESPONSES, pa.array([each.texts for each in found], pa.list_(pa.string())))
    table = table.append_column(
        FINISH_REASONS, pa.array([each.finish_reasons for each in found], pa.list_(pa.string()))
    )
    temporary = output.with_name(f".{output.name}.tmp")
    if output.suffix == ".parquet":
        pq.write_table(table, temporary)
    else:
        with temporary.open("w", encoding="utf-8") as file:
            for batch in table.to_batches(max_chunksize=256):
                for row in batch.to_pylist():
                    file.write(json.dumps(row, ensure_ascii=False, default=plain) + "\n")
    os.replace(temporary, output)


def read_response_rows(files: Sequence[str], columns: Sequence[str], optional: Sequence[str]) -> Iterator[RawRow]:
    """The rows of files of responses, with the named columns.

    Raises SchemaError when a file cannot be read or lacks one of `columns`.
    """
    for file in files:
        if Path(file).suffix == ".jsonl":
            yield from _read_lines(file, columns)
        else:
            yield from read_rows([file], columns, optional)


def _read_lines(file: str, columns: Sequence[str]) -> Iterator[RawRow]:
    with Path(file).expanduser().open(encoding="utf-8") as lines:
        for number, line in enumerate(lines):
            try:
                values = json.loads(line)
            except json.JSONDecodeError as error:
                raise SchemaError(f"{file}, row {number} (the first is 0): is not JSON ({error}).") from error
            if not isinstance(values, dict) or (missing := [column for column in columns if column not in values]):
                lacks = ", ".join(missing) if isinstance(values, dict) else "everything: it is no object"
                raise SchemaError(f"{file}, row {number} (the first is 0): lacks {lacks}.")
            yield RawRow(file, number, values)
