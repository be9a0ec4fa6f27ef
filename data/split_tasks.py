"""Split a JSON file of questions into `train.json` and `test.json` (JSON Lines).

    python data/split_tasks.py --json_path datasets/gsm8k.json --output_dir datasets/gsm8k

The split is that of `train_test_split` of Hugging Face's datasets: the published splits come out again, row by row.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # so that the file runs as a script from anywhere

from data import overlap
from data.command import run_command
from data.files import json_lines, read_rows, write_together
from data.rows import DataError
from data.schema import parquet_row

TEST_RATIO = 0.1
SEED = 42
T = TypeVar("T")


def split_rows(rows: Sequence[T], test_ratio: float, seed: int) -> tuple[list[T], list[T]]:
    """Train and test part, shuffled: the first `ceil(test_ratio * n)` of a seeded permutation are the test part."""
    if not 0 < test_ratio < 1 or seed < 0:
        raise DataError(f"--test_ratio {test_ratio} --seed {seed}: expected a share between 0 and 1, and at least 0.")
    num_test = math.ceil(test_ratio * len(rows))
    if num_test == len(rows):
        raise DataError(f"--test_ratio {test_ratio}: of {len(rows)} rows, none would be left to train on.")
    order = np.random.default_rng(seed).permutation(len(rows))
    return [rows[i] for i in order[num_test:]], [rows[i] for i in order[:num_test]]


def split_tasks(
    json_path: Path, output_dir: Path, test_ratio: float = TEST_RATIO, seed: int = SEED, dedup: bool = False
) -> None:
    """Write the two parts, and print their sizes and overlap. Raises DataError, with nothing written, for bad rows.

    Args:
        json_path: JSON array or JSON Lines.
        output_dir: folder to write to; made if missing.
        test_ratio: share of the test part, between 0 and 1.
        seed: of the shuffle.
        dedup: leave train rows out whose question or prompt is in the test part.
    """
    rows = read_rows(json_path)
    for row in rows:
        parquet_row(row, "")
    train, test = split_rows([row.values for row in rows], test_ratio, seed)
    print(overlap.report(train, test))
    if dedup:
        kept = overlap.without_test_questions(train, test)
        print(f"--dedup: {len(train) - len(kept)} train rows left out")
        if not kept:
            raise DataError("--dedup: no train row is left.")
        train = kept
    files = {output_dir / "train.json": train, output_dir / "test.json": test}
    write_together({file: json_lines(part) for file, part in files.items()})
    for file, part in files.items():
        print(f"{file}: {len(part)} rows")


def _command(options: argparse.Namespace) -> None:
    split_tasks(**vars(options))


def main(arguments: Sequence[str] | None = None) -> int:
    """The command. Returns its exit status."""
    parser = argparse.ArgumentParser("split_tasks", description="Split questions into train.json and test.json.")
    add = parser.add_argument
    add("--json_path", required=True, type=Path, metavar="FILE", help="questions (JSON array or JSON Lines)")
    add("--output_dir", required=True, type=Path, metavar="DIR", help="folder to write to")
    add("--test_ratio", type=float, default=TEST_RATIO, metavar="R", help="share of the test part (%(default)s)")
    add("--seed", type=int, default=SEED, metavar="N", help="of the shuffle (%(default)s)")
    add("--dedup", action="store_true", help="leave train rows out whose question or prompt is in the test part")
    return run_command(parser, _command, arguments)


if __name__ == "__main__":
    sys.exit(main())
