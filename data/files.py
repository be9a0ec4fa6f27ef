"""Reading and writing the files of the data tools.

Files appear whole and together: all are written beside their places first and renamed when the last one is complete.
"""

from __future__ import annotations

import csv
import json
import os
import sys
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from data.rows import DataError, Row

FORMATS = ".json, .jsonl, .parquet, .csv"
Writer = Callable[[Path], None]
"""Writes one file to the path it is given."""


def read_rows(file: Path) -> list[Row]:
    """Read a file of any of `FORMATS`; a .json file holds one array, or one object per line.

    Raises DataError for a missing, empty or malformed file.
    """
    readers = {".json": _read_json, ".jsonl": _read_json, ".parquet": _read_parquet, ".csv": _read_csv}
    if file.suffix not in readers:
        raise DataError(f"{file}: the name ends in {file.suffix or 'nothing'!r}; known formats are {FORMATS}.")
    try:
        values = readers[file.suffix](file)
    except FileNotFoundError as error:
        raise DataError(f"{file}: no such file.") from error
    except (OSError, UnicodeDecodeError, csv.Error, pa.ArrowException) as error:
        raise DataError(f"{file}: cannot be read ({error}).") from error
    if not values:
        raise DataError(f"{file}: found no rows, expected at least one.")
    return [Row(f"{file}, row {number} (the first is 0)", value) for number, value in enumerate(values)]


def _read_json(file: Path) -> list[Any]:
    text = file.read_text(encoding="utf-8-sig")
    if not text.lstrip().startswith("["):
        return [_parse_line(file, number, line) for number, line in enumerate(text.split("\n"), 1) if line.strip()]
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise DataError(f"{file}, line {error.lineno}: is not JSON ({error}).") from error


def _parse_line(file: Path, number: int, line: str) -> Any:
    try:
        return json.loads(line)
    except json.JSONDecodeError as error:
        raise DataError(f"{file}, line {number}: is not JSON ({error}); expected one object per line.") from error


def _read_parquet(file: Path) -> list[Any]:
    return pq.ParquetFile(file).read().to_pylist()


def _read_csv(file: Path) -> list[Any]:
    csv.field_size_limit(sys.maxsize)
    with file.open(encoding="utf-8-sig", newline="") as stream:
        return list(csv.DictReader(stream, strict=True))


def write_together(writers: Mapping[Path, Writer]) -> None:
    """Write all files, making their folders, or leave all that was there untouched."""
    unfinished = {file: file.with_name(f".{file.name}.{os.getpid()}.tmp") for file in writers}
    try:
        for file, write in writers.items():
            file.parent.mkdir(parents=True, exist_ok=True)
            write(unfinished[file])
        for file, temporary in unfinished.items():
            os.replace(temporary, file)
    finally:
        for temporary in unfinished.values():
            temporary.unlink(missing_ok=True)


def json_array(rows: Iterable[Mapping[str, Any]]) -> Writer:
    """A pretty array of objects."""
    return partial(_write_text, text=json.dumps(list(rows), indent=2, ensure_ascii=False) + "\n")


def json_lines(rows: Iterable[Mapping[str, Any]]) -> Writer:
    """One object per line, without spaces between the columns."""
    lines = (json.dumps(row, ensure_ascii=False, separators=(",", ":")) + "\n" for row in rows)
    return partial(_write_text, text="".join(lines))


def _write_text(file: Path, text: str) -> None:
    try:
        file.write_text(text, encoding="utf-8")
    except UnicodeEncodeError as error:
        raise DataError(f"a row holds a text that is not Unicode ({error}).") from error
