"""The row that goes from tool to tool (JSON), the row that a run reads (parquet), and the check between them.

Every tool checks the rows it reads and writes with `parquet_row`, the very function that makes the parquet files, so
what one tool lets through no later one refuses.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from data.rows import Row
from verl.rewards.code_tests import TestsError, read_tests

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


@dataclass(frozen=True)
class Question:
    """What a data set says about one question; `to_json` adds what its place in the set says."""

    kind: str
    """Family of scorers: code, math, mcq, gpqa, mmlu_pro, tooluse."""
    dataset: str
    """`data_source` of the run: `verl.rewards` maps it to a scorer."""
    prompt: str
    description: str
    """The question alone, without instructions, tests and options."""
    answer: str = "-"
    tests: str = "-"
    """JSON text, described in `verl.rewards.code_tests`."""
    elo: int | str | None = "-"
    """Difficulty; `-`: the set rates none, None: it rates others."""
    system: str | None = None

    def to_json(self, index: int, embedding: list[float]) -> dict[str, Any]:
        """The columns in their order."""
        return {
            "idx": index,
            "kind": self.kind,
            "dataset": self.dataset,
            "answer": self.answer,
            "elo": self.elo,
            "prompt": self.prompt,
            "description": f"{self.description} The solution will be evaluated in a {self.kind} environment.",
            "tests": self.tests,
            "embedding": embedding,
            "system": self.system,
        }


def parquet_row(row: Row, split: str) -> dict[str, Any]:
    """One row of the parquet file, from one of the JSON files. Raises DataError, with its place, for a bad one."""
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
        "reward_model": {"style": "rule", "ground_truth": _ground_truth(row, kind)},
        "extra_info": {
            "split": split,
            "index": _index(row),
            "description": description,
            "problem": problem,
            "elo": row.number_or_none("elo"),
            "achievement_prior": 0,
        },
        "system": system,
        "embedding": _embedding(row),
    }


def _without_self(text: str) -> str:
    """Starter code shows methods; solutions are asked for as plain functions."""
    return text.replace("(self, ", "(").replace("(self)", "()")


def _index(row: Row) -> str:
    value = row.values.get("idx")
    if not isinstance(value, int | str) or isinstance(value, bool):
        raise row.problem("idx", "a whole number or a text")
    return str(value)


def _embedding(row: Row) -> list[float] | None:
    value = row.values.get("embedding")
    values = value if isinstance(value, list) else []
    is_number = [isinstance(v, int | float) and not isinstance(v, bool) for v in values]
    if not isinstance(value, list | None) or not all(is_number):
        raise row.problem("embedding", "a list of numbers or null")
    return value


def _ground_truth(row: Row, kind: str) -> str:
    """Code is judged by its tests (JSON text), everything else by its answer."""
    if kind != "code":
        return row.text("answer")
    check_tests(row)
    return row.text("tests")


def check_tests(row: Row) -> dict[str, Any]:
    """The tests of a code question, read by the scorer's own reader; the JSON text is described there.

    Raises DataError when the scorer could not use them, or when there is none.
    """
    text = row.text("tests")
    try:
        if not read_tests(text).cases:
            raise row.problem("tests", "at least one test")
    except TestsError as error:
        raise row.problem("tests", f"tests that the scorer can read ({error})") from error
    return json.loads(text)
