"""Turn `DIR/train.json` and `DIR/test.json` into the parquet files that a run reads.

    python data/preprocess.py --data_source DIR

The JSON files hold one array of objects, or one object per line. Every row is checked before anything is written, and
files appear whole: a malformed row stops with file, row, column, what was found and what is expected, and leaves what
was there before untouched. The script needs pyarrow only, so that data can be made where nothing else is installed.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

SPLITS = ("train", "test")
ROWS_PER_GROUP = 32
"""Small row groups: a reader that wants a few rows with large tests does not decode thousands."""

_TEXT = pa.large_string()
SCHEMA = pa.schema(
    {
        "prompt": pa.large_list(pa.struct({"content": _TEXT, "role": _TEXT})),
        "data_source": _TEXT,
        "ability": _TEXT,
        "reward_model": pa.struct({"style": _TEXT, "ground_truth": _TEXT}),
        "extra_info": pa.struct(
            {
                "split": _TEXT,
                "index": _TEXT,
                "description": _TEXT,
                "problem": _TEXT,
                "elo": pa.int64(),
                "achievement_prior": pa.int64(),
            }
        ),
        "system": _TEXT,
        "embedding": pa.large_list(pa.float64()),
    }
)


class DataError(ValueError):
    """A file or a row that cannot be used."""


class Row:
    """One object of a JSON file, with readers that refuse what does not fit."""

    def __init__(self, file: Path, number: int, values: Any) -> None:
        self.where = f"{file}, row {number} (the first is 0)"
        if not isinstance(values, dict):
            raise DataError(f"{self.where}: found {_shown(values)}, expected an object with columns.")
        self.values: dict[str, Any] = values

    def problem(self, column: str, expected: str) -> DataError:
        found = _shown(self.values[column]) if column in self.values else "nothing (the column is missing)"
        return DataError(f"{self.where}, column {column!r}: found {found}, expected {expected}.")

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

    def number_or_none(self, column: str) -> int | None:
        """A whole number; missing, null and `-` are None."""
        value = self.values.get(column)
        if value is None or value == "-":
            return None
        if not isinstance(value, int) or isinstance(value, bool):
            raise self.problem(column, "a whole number, '-' or null")
        return value

    def index(self) -> str:
        value = self.values.get("idx")
        if not isinstance(value, int | str) or isinstance(value, bool):
            raise self.problem("idx", "a whole number or a text")
        return str(value)

    def embedding(self) -> list[float] | None:
        value = self.values.get("embedding")
        values = value if isinstance(value, list) else []
        is_number = [isinstance(v, int | float) and not isinstance(v, bool) for v in values]
        if not isinstance(value, list | None) or not all(is_number):
            raise self.problem("embedding", "a list of numbers or null")
        return value

    def ground_truth(self, kind: str) -> str:
        """Code is judged by its tests (JSON text), everything else by its answer."""
        if kind != "code":
            return self.text("answer")
        tests = self.text("tests")
        try:
            is_object = isinstance(json.loads(tests), dict)
        except json.JSONDecodeError:
            is_object = False
        if not is_object:
            raise self.problem("tests", "the JSON text of an object")
        return tests


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 200 else f"{text[:200]}... ({len(text)} characters)"


def read_json(file: Path) -> list[Row]:
    """Read an array of objects, or one object per line. Raises DataError for a missing, empty or malformed file."""
    try:
        text = file.read_text(encoding="utf-8-sig")
    except FileNotFoundError as error:
        raise DataError(f"{file}: no such file; expected are {' and '.join(f'{s}.json' for s in SPLITS)}.") from error
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{file}: cannot be read as text ({error}).") from error
    if text.lstrip().startswith("["):
        try:
            values = json.loads(text)
        except json.JSONDecodeError as error:
            raise DataError(f"{file}, line {error.lineno}: is not JSON ({error}).") from error
    else:
        values = [_parse_line(file, number, line) for number, line in enumerate(text.split("\n"), 1) if line.strip()]
    if not values:
        raise DataError(f"{file}: found no rows, expected an array of objects or one object per line.")
    return [Row(file, number, value) for number, value in enumerate(values)]


def _parse_line(file: Path, number: int, line: str) -> Any:
    try:
        return json.loads(line)
    except json.JSONDecodeError as error:
        raise DataError(f"{file}, line {number}: is not JSON ({error}); expected one object per line.") from error


def convert(row: Row, split: str) -> dict[str, Any]:
    """One row of the parquet file."""
    kind, source, system = row.text("kind"), row.text("dataset"), row.text_or_none("system")
    problem, description = row.text("prompt"), row.text("description")
    if source == "livecodebench":
        problem, description = _without_self(problem), _without_self(description)
    messages = [{"role": "user", "content": problem}]
    if system is not None:
        messages.insert(0, {"role": "system", "content": system})
    return {
        "prompt": messages,
        "data_source": source,
        "ability": kind,
        "reward_model": {"style": "rule", "ground_truth": row.ground_truth(kind)},
        "extra_info": {
            "split": split,
            "index": row.index(),
            "description": description,
            "problem": problem,
            "elo": row.number_or_none("elo"),
            "achievement_prior": 0,
        },
        "system": system,
        "embedding": row.embedding(),
    }


def _without_self(text: str) -> str:
    """Starter code shows methods; solutions are asked for as plain functions."""
    return text.replace("(self, ", "(").replace("(self)", "()")


def _table(file: Path, split: str) -> pa.Table:
    rows = [convert(row, split) for row in read_json(file)]
    try:
        return pa.Table.from_pylist(rows, schema=SCHEMA)
    except (pa.ArrowException, OverflowError, UnicodeError) as error:
        raise DataError(f"{file}: holds a value that parquet cannot store ({error}).") from error


def preprocess(folder: Path) -> dict[Path, int]:
    """Write `train.parquet` and `test.parquet` beside their JSON files. Returns the number of rows of each file.

    Raises DataError, with nothing written, when a row of either file is malformed.
    """
    tables = {folder / f"{split}.parquet": _table(folder / f"{split}.json", split) for split in SPLITS}
    unfinished = {file: file.with_name(f".{file.name}.{os.getpid()}.tmp") for file in tables}
    try:
        for file, table in tables.items():
            pq.write_table(table, unfinished[file], row_group_size=ROWS_PER_GROUP, compression="zstd")
        for file, temporary in unfinished.items():
            os.replace(temporary, file)
    finally:
        for temporary in unfinished.values():
            temporary.unlink(missing_ok=True)
    return {file: table.num_rows for file, table in tables.items()}


def main(arguments: Sequence[str] | None = None) -> int:
    """The command. Returns its exit status."""
    parser = argparse.ArgumentParser(description="Turn DIR/train.json and DIR/test.json into parquet files.")
    parser.add_argument("--data_source", required=True, type=Path, metavar="DIR", help="folder of the JSON files")
    folder = parser.parse_args(arguments).data_source
    try:
        written = preprocess(folder)
    except DataError as error:
        print(f"preprocess: {error}\nNothing was written.", file=sys.stderr)
        return 1
    except OSError as error:
        print(f"preprocess: cannot write: {error}", file=sys.stderr)
        return 1
    for file, num_rows in written.items():
        print(f"{file}: {num_rows} rows")
    return 0


if __name__ == "__main__":
    sys.exit(main())
