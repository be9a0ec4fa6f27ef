"""A folder that holds one question: `train.parquet`, whose tests give rewards and feedback, and `test.parquet`, whose
tests alone say whether the question is solved.

`data/split_questions.py` makes such folders (`q_00`, `q_01`, ...): the train row, with half of the tests, several
times, and the test row, with all of them, once.
"""

from __future__ import annotations

from pathlib import Path

from data.rows import DataError
from data.split_questions import question_folder
from verl.dataset.parquet import read_messages, read_rows
from verl.types import InputError

FILES = ("train.parquet", "test.parquet")


def find_question(folder: Path) -> Path:
    """The folder of a question, as it is written on disk: `q_1` finds `q_01`.

    Raises InputError when there is none, or when its files do not hold one question.
    """
    try:
        found = question_folder(folder)
    except DataError as error:
        raise InputError(f"--data-dir: {error}") from error
    messages = [
        (row, read_messages(row, "prompt")) for file in FILES for row in read_rows([str(found / file)], ["prompt"])
    ]
    for row, chat in messages:
        if chat != messages[0][1]:
            raise InputError(
                f"--data-dir {folder}: {row} is another question than {messages[0][0]}, and a run is about one;"
                " data/split_questions.py makes a folder for each."
            )
    return found


def question_id(folder: Path) -> str:
    """How a question is called in logs: the name of its folder."""
    return folder.resolve().name
