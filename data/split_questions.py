"""Make one folder per question, for training on that question alone: `q_00`, `q_01`, ...

    python data/split_questions.py --data_dir datasets/lcb_v6 --output_dir datasets/lcb_v6_questions

Each folder holds the question's train row four times and its test row once, as JSON and as parquet.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # so that the file runs as a script from anywhere

from data.command import run_command
from data.files import json_lines, read_rows, write_together
from data.preprocess import preprocess
from data.rows import DataError
from data.schema import parquet_row

COPIES = 4
"""Of the train row: a batch may hold several prompts."""


def question_folder(folder: Path) -> Path:
    """The existing folder of a question, whether its number is written with zeros in front or without.

    `.../q_1` finds `.../q_01`. Raises DataError when there is neither.
    """
    if folder.is_dir():
        return folder
    number = re.fullmatch(r"q_0*(\d+)", folder.name)
    for other in sorted(folder.parent.glob("q_*")) if number else ():
        found = re.fullmatch(r"q_0*(\d+)", other.name)
        if number and found and found[1] == number[1]:
            return other
    raise DataError(f"{folder}: no such folder; data/split_questions.py makes the folders of questions.")


def split_questions(data_dir: Path, output_dir: Path) -> int:
    """Make the folders from `train.json` and `test.json` of one set. Returns their number.

    Raises DataError, with nothing written, when a row is malformed or the files do not hold the same questions.
    """
    train, test = read_rows(data_dir / "train.json"), read_rows(data_dir / "test.json")
    if len(train) != len(test):
        raise DataError(f"{data_dir}: found {len(train)} train and {len(test)} test rows, expected the same questions.")
    for one, other in zip(train, test, strict=True):
        indices = [parquet_row(row, "")["extra_info"]["index"] for row in (one, other)]
        if indices[0] != indices[1]:
            raise other.problem("idx", f"{one.values['idx']!r}, as in train.json")
    for number, (one, other) in enumerate(zip(train, test, strict=True)):
        folder = output_dir / f"q_{number:02d}"
        write_together(
            {
                folder / "train.json": json_lines([one.values] * COPIES),
                folder / "test.json": json_lines([other.values]),
            }
        )
        preprocess(folder)
    return len(train)


def _command(options: argparse.Namespace) -> None:
    number = split_questions(options.data_dir, options.output_dir)
    print(f"{options.output_dir}: {number} folders")


def main(arguments: Sequence[str] | None = None) -> int:
    """The command. Returns its exit status."""
    parser = argparse.ArgumentParser("split_questions", description="Make one folder per question: q_00, q_01, ...")
    add = parser.add_argument
    add("--data_dir", required=True, type=Path, metavar="DIR", help="folder of train.json and test.json")
    add("--output_dir", required=True, type=Path, metavar="DIR", help="folder to make the folders in")
    return run_command(parser, _command, arguments)


if __name__ == "__main__":
    sys.exit(main())
