"""Split the tests of programming questions: train on a half of each question's tests, test on all of them.

    python data/split_tests.py --json_path datasets/lcb_v6.json --output_dir datasets/lcb_v6

`train.json` and `test.json` (JSON Lines) hold the same questions. The half is drawn per question, so that it does not
depend on what else is in the file.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # so that the file runs as a script from anywhere

from data.command import run_command
from data.files import json_lines, read_rows, write_together
from data.rows import Row
from data.schema import check_tests, parquet_row

SEED = 0


def with_half_of_tests(row: Row) -> dict[str, Any]:
    """The row with a random half of its tests (rounded down, at least one) in their order, all else equal."""
    tests = check_tests(row)
    num_tests = len(tests["inputs"])
    draw = random.Random(f"{SEED}:{row.values['idx']}")
    kept = sorted(draw.sample(range(num_tests), max(1, num_tests // 2)))
    tests |= {column: [tests[column][i] for i in kept] for column in ("inputs", "outputs")}
    return row.values | {"tests": json.dumps(tests, ensure_ascii=False)}


def split_tests(json_path: Path, output_dir: Path) -> None:
    """Write both files. Raises DataError, with nothing written, when a row is malformed or has no tests."""
    rows = read_rows(json_path)
    for row in rows:
        parquet_row(row, "")
    files = {
        output_dir / "train.json": [with_half_of_tests(row) for row in rows],
        output_dir / "test.json": [row.values for row in rows],
    }
    write_together({file: json_lines(part) for file, part in files.items()})
    for file in files:
        print(f"{file}: {len(rows)} rows")


def _command(options: argparse.Namespace) -> None:
    split_tests(**vars(options))


def main(arguments: Sequence[str] | None = None) -> int:
    """The command. Returns its exit status."""
    parser = argparse.ArgumentParser("split_tests", description="Train on half of each question's tests, test on all.")
    add = parser.add_argument
    add("--json_path", "--data_path", required=True, type=Path, metavar="FILE", help="questions with tests (JSON)")
    add("--output_dir", required=True, type=Path, metavar="DIR", help="folder to write to")
    return run_command(parser, _command, arguments)


if __name__ == "__main__":
    sys.exit(main())
