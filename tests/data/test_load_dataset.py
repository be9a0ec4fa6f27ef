"""`data/load_dataset.py`: its options, and its refusals, which write nothing."""

import json
import os
import subprocess
import sys
from pathlib import Path

import datasets
import numpy as np
import pytest
from own_columns import CASES, gpqa, write_rows

from data import load_dataset
from data.load_dataset import load_dataset_hf
from data.sources import SOURCES

ROOT = Path(__file__).parents[2]
GSM8K = [{"question": f"What is {i} + 1?", "answer": f"Add.\n#### {i + 1}"} for i in range(5)]


@pytest.fixture
def gsm8k(tmp_path):
    return write_rows(tmp_path / "gsm8k.jsonl", GSM8K)


def run(*arguments):
    return load_dataset.main([str(argument) for argument in arguments])


def test_start_and_number_keep_the_index_of_the_whole(gsm8k, tmp_path):
    out = tmp_path / "new" / "folder" / "out.json"
    arguments = ["--dataset_name", "openai/gsm8k", "--output_path", out, "--from_path", gsm8k]
    assert run(*arguments, "--start_idx", 1, "--num_el", 2, "--category", "false") == 0
    assert [(row["idx"], row["answer"]) for row in json.loads(out.read_text())] == [(1, "2"), (2, "3")]


def test_a_whole_row_by_hand(gsm8k):
    (row,) = load_dataset_hf("openai/gsm8k", None, num_el=1, from_path=gsm8k).to_list()
    assert row == {
        "idx": 0,
        "kind": "math",
        "dataset": "gsm8k",
        "answer": "1",
        "elo": "-",
        "prompt": "What is 0 + 1?\n\nPlease reason step by step, and put your final answer within \\boxed{}.",
        "description": "What is 0 + 1? The solution will be evaluated in a math environment.",
        "tests": "-",
        "embedding": [],
        "system": None,
    }


def test_category(tmp_path, capsys):
    rows = [gpqa(1), gpqa(2) | {"High-level domain": "Biology"}, gpqa(3)]
    arguments = ["--dataset_name", "Idavidrein/gpqa-D", "--output_path", tmp_path / "out.json"]
    arguments += ["--from_path", write_rows(tmp_path / "gpqa.csv", rows), "--category"]
    assert run(*arguments, "Physics") == 0
    assert [row["idx"] for row in json.loads((tmp_path / "out.json").read_text())] == [0, 1]
    assert run(*arguments, "History") == 1
    assert "--category History: the set has Biology, Physics." in capsys.readouterr().err


def test_embeddings(gsm8k, tmp_path):
    np.save(tmp_path / "vectors.npy", np.arange(10, dtype=np.float32).reshape(5, 2))
    rows = load_dataset_hf("openai/gsm8k", None, embeddings_file=tmp_path / "vectors.npy", from_path=gsm8k).to_list()
    assert [row["embedding"] for row in rows] == [[0, 1], [2, 3], [4, 5], [6, 7], [8, 9]]
    with pytest.raises(ValueError, match=r"found the shape \(5, 2\), expected \(4, size\)"):
        load_dataset_hf("openai/gsm8k", None, 1, embeddings_file=tmp_path / "vectors.npy", from_path=gsm8k)


def test_the_ratio_writes_the_split_of_split_tasks(gsm8k, tmp_path):
    arguments = ["--dataset_name", "openai/gsm8k", "--output_path", tmp_path / "all.json", "--from_path", gsm8k]
    assert run(*arguments, "--test_ratio", 0.4, "--seed", 7) == 0
    order = np.random.default_rng(7).permutation(5).tolist()
    for name, indices in (("test", order[:2]), ("train", order[2:])):
        lines = (tmp_path / f"{name}.json").read_text().splitlines()
        assert [json.loads(line)["idx"] for line in lines] == indices


@pytest.mark.parametrize(
    ("name", "column", "value", "message"),
    [
        ("openai/gsm8k", "answer", "no mark", "column 'answer': found 'no mark', expected a text that ends in '#### '"),
        ("TIGER-Lab/MMLU-Pro", "answer", "K", "column 'answer': found 'K', expected one letter of A to I"),
        ("Chemistry", "answerKey", "E", "column 'answerKey': found 'E', expected one of A, B, C, D"),
        ("Chemistry", "details", {}, "column 'details.level': found nothing (the column is missing), expected a text"),
        ("math-ai/aime24", "solution", "7", "column 'solution': found '7', expected a text with \\boxed{answer}"),
        ("Qwen/CodeElo", "examples", [["1"]], "column 'examples': found [['1']], expected a list of [input, output]"),
        ("open-r1/codeforces", "time_limit", -1, "column 'time_limit': found -1, expected a positive number"),
        ("open-r1/codeforces", "official_tests", [{"input": "1"}], "column 'official_tests[0].output': found nothing"),
        ("tooluse", "answer", '[{"Action": ""}]', "column 'answer[0].Action': found '', expected a text"),
        ("livecodebench/code_generation_lite-v6", "contest_date", "May", "column 'contest_date': found 'May'"),
        ("lasgroup/verifiable-corpus", "tests", "-", "column 'tests': found '-', expected tests that the scorer can"),
        ("Idavidrein/gpqa-D", "Question", " ", "column 'Question': found ' ', expected a text that is not blank"),
    ],
)
def test_a_malformed_row_is_named_and_nothing_is_written(tmp_path, capsys, name, column, value, message):
    rows = CASES[name].rows
    rows = [rows[1], rows[0] | {column: value}]
    file = write_rows(tmp_path / "own.json", rows)
    assert run("--dataset_name", name, "--output_path", tmp_path / "out" / "x.json", "--from_path", file) == 1
    said = capsys.readouterr().err
    assert f"{file}, row 1 (the first is 0), {message}" in said and "Nothing was written." in said
    assert [path.name for path in tmp_path.iterdir()] == ["own.json"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["openai/gsm9k", "x.json"], "'openai/gsm9k' is not a known dataset; known are BAAI/TACO, Biology"),
        (["openai/gsm8k", "x.json", "--from_path", "none.json"], "none.json: no such file."),
        (
            ["openai/gsm8k", "x.json", "--from_path", "rows.txt"],
            "'.txt'; known formats are .json, .jsonl, .parquet, .csv",
        ),
        (
            ["openai/gsm8k", "x.json", "--from_path", "rows.jsonl", "--num_el", "0"],
            "expected at least 0 and at least 1",
        ),
        (["openai/gsm8k", "x.json", "--from_path", "rows.jsonl", "--start_idx", "9"], "no question is left"),
        (["openai/gsm8k", "x.json", "--from_path", "rows.jsonl", "--category", "x"], "this set has no categories"),
        (
            ["openai/gsm8k", "x.json", "--from_path", "rows.jsonl", "--test_ratio", "2"],
            "expected a share between 0 and 1",
        ),
        (["openai/gsm8k", "train.json", "--from_path", "rows.jsonl", "--test_ratio", ".2"], "is the name of a part"),
    ],
)
def test_requests_that_cannot_be_served(tmp_path, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(tmp_path)
    write_rows(tmp_path / "rows.jsonl", GSM8K)
    name, output, *more = arguments
    assert run("--dataset_name", name, "--output_path", output, *more) == 1
    assert message in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["rows.jsonl"]


def test_tooluse_says_where_its_files_are(tmp_path, capsys):
    assert run("--dataset_name", "tooluse", "--output_path", tmp_path / "x.json") == 0
    assert "is not on the hub" in capsys.readouterr().out


@pytest.mark.parametrize("name", [name for name in CASES if name != "tooluse"])
def test_rows_of_the_hub_give_the_same_questions(name, tmp_path, monkeypatch):
    """The hub's package is asked for every part of the set, and its typed rows convert like those of a file."""
    source, case = SOURCES.load(name), CASES[name]
    parts = [case.rows] if len(source.hub.configs) == 1 else [[row] for row in case.rows]
    asked = []

    def load(*arguments, **keywords):
        asked.append((arguments, keywords))
        return datasets.Dataset.from_list(parts[len(asked) - 1])

    monkeypatch.setattr(datasets, "load_dataset", load)
    rows = load_dataset_hf(name, None).to_list()
    file = write_rows(tmp_path / "own.json", case.rows)
    assert rows == load_dataset_hf(name, None, from_path=file).to_list()
    place = {"split": source.hub.split, "revision": source.hub.revision}
    if name == "BAAI/TACO":
        assert asked == [
            (("parquet",), {"data_files": "hf://datasets/BAAI/TACO/ALL/train-*.parquet", "split": "train"})
        ]
    else:
        assert asked == [((source.hub.name, config), place) for config in source.hub.configs]


def without_python_path(*more):
    return {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | dict(more)


@pytest.mark.parametrize("name", ["openai/gsm8k", "BAAI/TACO"])
def test_without_the_hub_the_way_round_is_named(tmp_path, name):
    command = [sys.executable, "data/load_dataset.py", "--dataset_name", name, "--output_path", str(tmp_path / "x")]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True,
        env=without_python_path(("HF_HUB_OFFLINE", "1"), ("HF_HOME", str(tmp_path / "cache"))),
    )  # fmt: skip
    assert done.returncode == 1
    assert "the Hugging Face hub cannot be reached from here" in done.stderr and "--from_path FILE" in done.stderr
    assert "Traceback" not in done.stderr and not (tmp_path / "x").exists()


@pytest.mark.parametrize("folder", [ROOT, ROOT / "data"])
def test_tools_run_from_the_root_and_from_their_folder(folder, gsm8k, tmp_path):
    """A folder next to a tool must hide none of the packages it imports."""

    def tool(name, *arguments):
        script = os.path.relpath(ROOT / "data" / f"{name}.py", folder)
        subprocess.run([sys.executable, script, *arguments], cwd=folder, env=without_python_path(), check=True)

    out = str(tmp_path / "all.json")
    tool("load_dataset", "--dataset_name", "openai/gsm8k", "--output_path", out, "--from_path", str(gsm8k))
    tool("split_tasks", "--json_path", out, "--output_dir", str(tmp_path))
    tool("preprocess", "--data_source", str(tmp_path))
    assert (tmp_path / "test.parquet").exists()
