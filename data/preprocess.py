"""Turn `DIR/train.json` and `DIR/test.json` into the parquet files that a run reads.

    python data/preprocess.py --data_source DIR

The JSON files hold one array of objects, or one object per line. Every row is checked before anything is written, and
files appear whole: a malformed row stops with file, row, column, what was found and what is expected, and leaves what
was there before untouched. The script needs pyarrow only, so that data can be made where nothing else is installed.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # so that the file runs as a script from anywhere

from data.command import run_command
from data.files import read_rows, write_together
from data.rows import DataError
from data.schema import SCHEMA, parquet_row

SPLITS = ("train", "test")
ROWS_PER_GROUP = 32
"""Small row groups: a reader that wants a few rows with large tests does not decode thousands."""


def _table(file: Path, split: str) -> pa.Table:
    rows = [parquet_row(row, split) for row in read_rows(file)]
    try:
        return pa.Table.from_pylist(rows, schema=SCHEMA)
    except (pa.ArrowException, OverflowError, UnicodeError) as error:
        raise DataError(f"{file}: holds a value that parquet cannot store ({error}).") from error


def preprocess(folder: Path) -> dict[Path, int]:
    """Write `train.parquet` and `test.parquet` beside their JSON files. Returns the number of rows of each file.

    Raises DataError, with nothing written, when a row of either file is malformed.
    """
    tables = {folder / f"{split}.parquet": _table(folder / f"{split}.json", split) for split in SPLITS}
    write_together({file: partial(_write, table) for file, table in tables.items()})
    return {file: table.num_rows for file, table in tables.items()}


def _write(table: pa.Table, file: Path) -> None:
    pq.write_table(table, file, row_group_size=ROWS_PER_GROUP, compression="zstd")


def _command(options: argparse.Namespace) -> None:
    for file, num_rows in preprocess(options.data_source).items():
        print(f"{file}: {num_rows} rows")


def main(arguments: Sequence[str] | None = None) -> int:
    """The command. Returns its exit status."""
    parser = argparse.ArgumentParser("preprocess", description="Turn train.json and test.json into parquet files.")
    parser.add_argument("--data_source", required=True, type=Path, metavar="DIR", help="folder of the JSON files")
    return run_command(parser, _command, arguments)


if __name__ == "__main__":
    sys.exit(main())
