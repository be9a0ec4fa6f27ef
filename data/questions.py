"""From the rows of a public set, on the hub or in a local file, to the questions that are taken from it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from data.files import read_rows
from data.hub import hub_rows
from data.rows import DataError, Row
from data.schema import Question, parquet_row
from data.sources.base import LeftOut, Source


class Questions:
    """The questions of a source in their order; iterating counts, by reason, the rows that are none.

    Args:
        source: the set.
        from_path: local file with the set's own columns; None reads the hub.
        category: wanted value of the source's category column; None takes every row.
    """

    def __init__(self, source: Source, from_path: str | Path | None, category: str | None) -> None:
        if category is not None and source.category is None:
            raise DataError(f"--category {category}: this set has no categories; leave it out.")
        self.source = source
        self.from_path = from_path
        self.category = category
        self.left_out: Counter[str] = Counter()
        self._categories: set[str] = set()

    def __iter__(self) -> Iterator[tuple[Row, Question]]:
        for row in self._rows():
            if not self._is_chosen(row):
                continue
            question = self.source.convert(row)
            if isinstance(question, LeftOut):
                self.left_out[question.reason] += 1
            else:
                yield row, question

    def _rows(self) -> Iterator[Row]:
        if self.from_path is not None:
            yield from read_rows(Path(self.from_path))
        elif isinstance(self.source.hub, str):
            raise DataError(self.source.hub)
        else:
            yield from hub_rows(self.source.hub, self.source.columns)

    def _is_chosen(self, row: Row) -> bool:
        if self.category is None or self.source.category is None:
            return True
        value = row.text(self.source.category)
        self._categories.add(value)
        return value == self.category

    def nothing_taken(self) -> DataError:
        """Why not a single question is left."""
        if self._categories and self.category not in self._categories:
            return DataError(f"--category {self.category}: the set has {', '.join(sorted(self._categories))}.")
        reasons = "; ".join(f"{number} rows: {reason}" for reason, number in self.left_out.items())
        return DataError(f"no question is left{f' (left out: {reasons})' if reasons else ''}.")


def take(questions: Questions, start: int, number: int | None, embeddings: str | Path | None) -> list[dict[str, Any]]:
    """Rows of our JSON for `number` questions (None: all) from `start` on, checked.

    `embeddings` is a .npy file with one row for each question that is taken.
    """
    if start < 0 or (number is not None and number < 1):
        raise DataError(f"--start_idx {start} --num_el {number}: expected at least 0 and at least 1.")
    taken = list(islice(questions, start, None if number is None else start + number))
    if not taken:
        raise questions.nothing_taken()
    rows = []
    vectors = _read_embeddings(embeddings, len(taken))
    for index, ((row, question), vector) in enumerate(zip(taken, vectors, strict=True), start):
        rows.append(question.to_json(index, vector))
        parquet_row(Row(row.where, rows[-1]), "")  # what a later tool would refuse is refused here
    return rows


def _read_embeddings(file: str | Path | None, num_rows: int) -> list[list[float]]:
    if file is None:
        return [[] for _ in range(num_rows)]
    try:
        array = np.load(file, allow_pickle=False)
    except (OSError, ValueError) as error:
        raise DataError(f"--embeddings_file {file}: is not a .npy file of numbers ({error}).") from error
    if array.ndim != 2 or len(array) != num_rows:
        raise DataError(f"--embeddings_file {file}: found the shape {array.shape}, expected ({num_rows}, size).")
    return array.tolist()
