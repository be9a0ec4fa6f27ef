"""Every data set, from a local file with its own columns to a score: load, split, preprocess, score."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from own_columns import CASES, write_rows

from data import load_dataset, preprocess, split_tasks
from data.sources import SOURCES
from verl.rewards import compute_score

COLUMNS = ["idx", "kind", "dataset", "answer", "elo", "prompt", "description", "tests", "embedding", "system"]


def test_no_dataset_is_forgotten():
    assert sorted(CASES) == SOURCES.names


def load(name, folder):
    case = CASES[name]
    file = write_rows(folder / f"own{case.suffix}", [*case.left_out, *case.rows])
    arguments = ["--dataset_name", name, "--output_path", str(folder / "all.json"), "--from_path", str(file)]
    assert load_dataset.main(arguments) == 0
    return json.loads((folder / "all.json").read_text())


@pytest.mark.parametrize("name", CASES)
def test_from_own_columns_to_a_score(name, tmp_path):
    case, rows = CASES[name], load(name, tmp_path)
    assert [row["idx"] for row in rows] == list(range(len(case.rows)))
    assert all(list(row) == COLUMNS for row in rows)
    assert {row["dataset"] for row in rows} == set(case.data_source.split())
    parts = ["--json_path", str(tmp_path / "all.json"), "--output_dir", str(tmp_path / "parts"), "--test_ratio", "0.4"]
    assert split_tasks.main(parts) == 0
    assert preprocess.main(["--data_source", str(tmp_path / "parts")]) == 0
    tables = [pq.read_table(tmp_path / "parts" / f"{part}.parquet") for part in ("train", "test")]
    scored = 0
    for row in pa.concat_tables(tables).to_pylist():
        gold = row["reward_model"]["ground_truth"]
        right = case.right[int(row["extra_info"]["index"])]
        right = f"\\boxed{{{gold}}}" if right == "gpqa" else right
        for response, score in ((right, 1.0), (case.wrong, 0.0)):
            result = compute_score(row["data_source"], response, gold, row["extra_info"])
            assert result["score"] == score, (response, result)
        scored += 1
    assert scored == len(case.rows)
