"""`data/preprocess.py` on small rows: what it writes, and what it refuses without writing anything."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest

SCRIPT = Path(__file__).parents[2] / "data" / "preprocess.py"
MCQ = {
    "idx": 12,
    "kind": "mcq",
    "dataset": "sciknoweval",
    "answer": "B",
    "elo": 1500,
    "prompt": "Which gas is noble?\n\nA: oxygen\nB: neon",
    "description": "Which gas is noble?",
    "tests": "-",
    "embedding": [0.5, 1],
    "system": "Answer with a letter.",
}
TESTS = json.dumps({"inputs": ["1"], "outputs": ["2"], "testtype": "functional", "fn_name": "f", "time_limit": 6})
CODE = {
    "idx": "q3",
    "kind": "code",
    "dataset": "livecodebench",
    "prompt": "def f(self, x): and def g(self):",
    "description": "call (self, x)",
    "tests": TESTS,
    "system": None,
    "elo": "-",
}


def run(folder):
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    command = [sys.executable, str(SCRIPT), "--data_source", str(folder)]
    return subprocess.run(command, cwd=folder.parent, env=environment, capture_output=True, text=True)


@pytest.fixture
def folder(tmp_path):
    def write(train, test, is_array=False):
        data = tmp_path / "set"
        data.mkdir(exist_ok=True)
        for name, rows in (("train", train), ("test", test)):
            lines = "\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows)
            (data / f"{name}.json").write_text(json.dumps(rows, indent=1) if is_array else lines + "\n")
        return data

    return write


@pytest.mark.parametrize("is_array", [False, True])
def test_rows_by_hand(folder, is_array):
    data = folder([MCQ, CODE], [MCQ], is_array)
    done = run(data)
    assert done.returncode == 0, done.stderr
    first, second = pq.read_table(data / "train.parquet").to_pylist()
    assert first == {
        "prompt": [
            {"content": "Answer with a letter.", "role": "system"},
            {"content": MCQ["prompt"], "role": "user"},
        ],
        "data_source": "sciknoweval",
        "ability": "mcq",
        "reward_model": {"style": "rule", "ground_truth": "B"},
        "extra_info": {
            "split": "train",
            "index": "12",
            "description": "Which gas is noble?",
            "problem": MCQ["prompt"],
            "elo": 1500,
            "achievement_prior": 0,
        },
        "system": "Answer with a letter.",
        "embedding": [0.5, 1.0],
    }
    assert second["prompt"] == [{"content": "def f(x): and def g():", "role": "user"}]
    assert second["reward_model"]["ground_truth"] == TESTS
    assert second["extra_info"]["description"] == "call (x)"
    assert (second["extra_info"]["elo"], second["system"], second["embedding"]) == (None, None, None)
    (test,) = pq.read_table(data / "test.parquet").to_pylist()
    assert test["extra_info"]["split"] == "test"


def test_layout_of_the_file(folder):
    data = folder([MCQ] * 40, [MCQ])
    run(data)
    file = pq.ParquetFile(data / "train.parquet")
    groups = [file.metadata.row_group(i) for i in range(file.metadata.num_row_groups)]
    assert [group.num_rows for group in groups] == [32, 8]
    assert {groups[0].column(i).compression for i in range(groups[0].num_columns)} == {"ZSTD"}
    types = {name: str(file.schema_arrow.field(name).type) for name in ("prompt", "data_source")}
    assert types == {
        "prompt": "large_list<element: struct<content: large_string, role: large_string>>",
        "data_source": "large_string",
    }


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (MCQ | {"prompt": None}, "row 1 (the first is 0), column 'prompt': found None, expected a text"),
        (MCQ | {"answer": 5}, "column 'answer': found 5, expected a text"),
        (MCQ | {"elo": "high"}, "column 'elo': found 'high', expected a whole number"),
        (MCQ | {"system": ["x"]}, "column 'system': found ['x'], expected a text or null"),
        (MCQ | {"embedding": ["x"]}, "column 'embedding': found ['x'], expected a list of numbers"),
        (MCQ | {"embedding": 3}, "column 'embedding': found 3, expected a list of numbers"),
        (
            CODE | {"tests": "-"},
            "column 'tests': found '-', expected tests that the scorer can read (the tests are not",
        ),
        (CODE | {"tests": TESTS.replace('["2"]', "[]")}, "inputs and outputs must be two lists of the same length."),
        (CODE | {"tests": TESTS.replace('"f"', '""')}, "a functional test must name the function it calls."),
        (CODE | {"tests": '{"inputs": [], "outputs": [], "testtype": "stdin"}'}, "expected at least one test"),
        ({k: v for k, v in MCQ.items() if k != "kind"}, "column 'kind': found nothing (the column is missing)"),
        ([1], "found [1], expected an object"),
        ('{"idx": 1', "test.json, line 2: is not JSON"),
        (MCQ | {"elo": 2**70}, "test.json: holds a value that parquet cannot store"),
    ],
)
def test_a_malformed_row_is_named_and_nothing_is_written(folder, bad, message):
    data = folder([MCQ], [MCQ, bad])
    (data / "train.parquet").write_text("older file")
    done = run(data)
    assert done.returncode == 1
    assert "test.json" in done.stderr and message in done.stderr and "Traceback" not in done.stderr
    assert sorted(file.name for file in data.iterdir()) == ["test.json", "train.json", "train.parquet"]
    assert (data / "train.parquet").read_text() == "older file"


def test_missing_and_empty_files_are_named(folder):
    data = folder([MCQ], [])
    assert "test.json: found no rows" in run(data).stderr
    (data / "train.json").unlink()
    assert "train.json: no such file" in run(data).stderr
