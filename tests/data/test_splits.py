"""Splitting by task, by test and by question."""

import json
import os
import subprocess
import sys
from pathlib import Path

import datasets
import numpy as np
import pyarrow.parquet as pq
import pytest

from data import split_tasks, split_tests
from data.rows import DataError, Row
from data.split_questions import question_folder
from data.split_tasks import split_rows

SCRIPT = Path(__file__).parents[2] / "data" / "prepare_data_splits.sh"


def question(index, **other):
    return {
        "idx": index,
        "kind": "mcq",
        "dataset": "sciknoweval",
        "answer": "A",
        "elo": 1500,
        "prompt": f"Question {index}?\n\nA: CC\nB: cc",
        "description": f"Question {index}?",
        "tests": "-",
        "embedding": [],
        "system": None,
    } | other


def code(index, num_tests):
    tests = {"inputs": [f"{i}" for i in range(num_tests)], "outputs": [f"out {i}" for i in range(num_tests)],
             "testtype": "stdin", "fn_name": "", "time_limit": 6, "context": "kept"}  # fmt: skip
    return question(index, kind="code", dataset="livecodebench", answer="-", tests=json.dumps(tests))


def lines(file):
    return [json.loads(line) for line in file.read_text().splitlines()]


def split(folder, rows, *more):
    (folder / "all.json").write_text(json.dumps(rows))
    return split_tasks.main(["--json_path", f"{folder}/all.json", "--output_dir", f"{folder}/out", *more])


def test_the_published_split_of_sciknoweval_chemistry():
    """Ratio 0.1 and seed 42 of 2,100 questions: first and last numbers of the published files."""
    train, test = split_rows(range(2100), 0.1, 42)
    assert (len(train), len(test)) == (1890, 210)
    assert test[:8] == [1522, 1033, 1476, 837, 1966, 1237, 1389, 1612]
    assert train[:8] == [743, 608, 2026, 283, 357, 803, 1397, 347]
    assert (test[-3:], train[-3:]) == ([483, 722, 1063], [1572, 1633, 1672])


@pytest.mark.parametrize(("num_rows", "ratio", "seed"), [(935, 0.1, 42), (500, 0.1, 42), (7, 0.3, 0), (10, 0.7, 5)])
def test_split_is_that_of_hugging_face(num_rows, ratio, seed):
    parts = datasets.Dataset.from_dict({"i": list(range(num_rows))}).train_test_split(ratio, seed=seed)
    assert split_rows(range(num_rows), ratio, seed) == (parts["train"]["i"][:], parts["test"]["i"][:])


def test_split_tasks_keeps_rows_as_they_are(tmp_path):
    rows = [question(i, extra={"a": [1]}) for i in range(20)]
    assert split(tmp_path, rows) == 0
    train, test = lines(tmp_path / "out" / "train.json"), lines(tmp_path / "out" / "test.json")
    assert sorted(train + test, key=lambda row: row["idx"]) == rows and len(test) == 2


def test_overlap_is_reported_and_removed(tmp_path, capsys):
    order = np.random.default_rng(42).permutation(8).tolist()
    rows = [question(i) for i in range(8)]
    stem = rows[order[0]]["description"]  # of the only test row
    rows[order[1]] |= {"description": stem.replace(" ", "  ")}
    rows[order[2]] |= {"prompt": rows[order[0]]["prompt"]}
    rows[order[3]] |= {"prompt": rows[order[0]]["prompt"].replace("CC", "cc"), "description": stem.upper()}
    assert split(tmp_path, rows) == 0
    said = "overlap: of 1 test rows, 1 have their question in train and 1 have their whole prompt in train"
    assert said in capsys.readouterr().out
    assert len(lines(tmp_path / "out" / "train.json")) == 7
    assert split(tmp_path, rows, "--dedup") == 0
    assert "--dedup: 2 train rows left out" in capsys.readouterr().out
    assert [row["idx"] for row in lines(tmp_path / "out" / "train.json")] == order[3:]


def test_split_tasks_refuses_a_malformed_row(tmp_path, capsys):
    assert split(tmp_path, [question(0), question(1), question(2, answer=3)]) == 1
    assert "all.json, row 2 (the first is 0), column 'answer': found 3, expected a text" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("num_tests", "num_kept"), [(1, 1), (2, 1), (3, 1), (8, 4), (9, 4)])
def test_half_of_the_tests_in_their_order(num_tests, num_kept):
    row = code(3, num_tests)
    halved = split_tests.with_half_of_tests(Row("here", row))
    assert halved | {"tests": row["tests"]} == row
    tests, kept = json.loads(row["tests"]), json.loads(halved["tests"])
    indices = [int(i) for i in kept["inputs"]]
    assert indices == sorted(set(indices)) and len(indices) == num_kept
    assert kept == tests | {"inputs": [f"{i}" for i in indices], "outputs": [f"out {i}" for i in indices]}


def test_split_tests_as_a_command(tmp_path, capsys):
    rows = [code(0, 8), code(1, 8), code(2, 8)]
    (tmp_path / "all.json").write_text(json.dumps(rows))
    for option in ("--json_path", "--data_path"):
        assert split_tests.main([option, f"{tmp_path}/all.json", "--output_dir", f"{tmp_path}/{option}"]) == 0
    train = lines(tmp_path / "--json_path" / "train.json")
    assert train == lines(tmp_path / "--data_path" / "train.json")
    assert lines(tmp_path / "--json_path" / "test.json") == rows
    assert len({row["tests"] for row in train}) > 1  # the halves differ between questions
    (tmp_path / "all.json").write_text(json.dumps([question(0)]))
    assert split_tests.main(["--json_path", f"{tmp_path}/all.json", "--output_dir", f"{tmp_path}/no"]) == 1
    assert "row 0 (the first is 0), column 'tests': found '-'" in capsys.readouterr().err


def prepare(folder, **more):
    environment = {n: v for n, v in os.environ.items() if n != "PYTHONPATH"} | {"PYTHON": sys.executable} | more
    command = ["bash", str(SCRIPT), "lcb.json"]
    subprocess.run(command, cwd=folder, env=environment, check=True, capture_output=True)


def test_prepare_data_splits(tmp_path):
    rows = [code(i, 4) for i in range(11)]
    (tmp_path / "lcb.json").write_text(json.dumps(rows))
    prepare(tmp_path)
    assert pq.read_table(tmp_path / "lcb" / "test.parquet").num_rows == 11
    folders = sorted(path.name for path in (tmp_path / "lcb_questions").iterdir())
    assert folders == [f"q_{i:02d}" for i in range(11)]
    train = lines(tmp_path / "lcb" / "train.json")
    assert lines(tmp_path / "lcb_questions" / "q_07" / "train.json") == [train[7]] * 4
    assert lines(tmp_path / "lcb_questions" / "q_07" / "test.json") == [rows[7]]
    truths = pq.read_table(tmp_path / "lcb_questions" / "q_10" / "train.parquet").to_pylist()
    assert [row["reward_model"]["ground_truth"] for row in truths] == [train[10]["tests"]] * 4
    assert not (tmp_path / "lcb_easy").exists()


def test_prepare_data_splits_where_told(tmp_path):
    (tmp_path / "lcb.json").write_text(json.dumps([code(0, 2), code(1, 2)]))
    (tmp_path / "lcb_easy.json").write_text(json.dumps([code(0, 2)]))
    prepare(tmp_path, MY_DATA_SPLITS_DIR="a", MY_DATA_EASY_DIR="b", MY_DATA_SINGLES_DIR="c")
    written = sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("test.parquet"))
    assert written == ["a/test.parquet", "b/test.parquet", "c/q_00/test.parquet", "c/q_01/test.parquet"]


def test_question_folders_are_found_with_and_without_zeros(tmp_path):
    for name in ("q_01", "q_10", "q_2"):
        (tmp_path / name).mkdir()
    found = {name: question_folder(tmp_path / name).name for name in ("q_1", "q_01", "q_10", "q_02", "q_002")}
    assert found == {"q_1": "q_01", "q_01": "q_01", "q_10": "q_10", "q_02": "q_2", "q_002": "q_2"}
    with pytest.raises(DataError, match="q_0: no such folder"):
        question_folder(tmp_path / "q_0")
