"""The run folder's records and the dumps."""

import json

import yaml

from verl.tracking import dump_samples, record_end, record_start
from verl.types import Prompt, Reward, Rollout, Sample


def test_start_and_end_are_recorded(tmp_path):
    record_start(tmp_path, {"optim": {"betas": (0.9, 0.99)}, "path": tmp_path}, {"trainer": 3, "data": None})
    status = json.loads((tmp_path / "status.json").read_text())
    assert status["status"] == "running" and status["pid"] > 0
    config = yaml.safe_load((tmp_path / "config.yaml").read_text())
    assert config == {"optim": {"betas": [0.9, 0.99]}, "path": str(tmp_path)}
    run = json.loads((tmp_path / "run.json").read_text())
    assert run["seeds"] == {"trainer": 3, "data": None} and run["versions"]["torch"].startswith("2.")
    record_end(tmp_path, "failed", "RuntimeError: rank 1 died")
    status = json.loads((tmp_path / "status.json").read_text())
    assert (status["status"], status["reason"]) == ("failed", "RuntimeError: rank 1 died")
    assert status["seconds"] >= 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.yaml", "run.json", "status.json"]


def sample(score, **extras):
    prompt = Prompt(0, [], [1, 2], "src", {"answer": 4}, {})
    rollout = Rollout(0, [1, 2], [3], [-0.1], [1], "stop", 0)
    return Sample("u", prompt, rollout, "four", Reward(score, score, "wrong" if not score else "", extras))


def test_dump_fills_missing_keys_with_null(tmp_path):
    path = dump_samples(tmp_path / "rollouts", 12, [sample(1.0, pred="4"), sample(0.0, truncated=True)], str)
    first, second = (json.loads(line) for line in path.read_text().splitlines())
    assert path.name == "12.jsonl" and list(first) == list(second)
    assert first == {
        "input": "[1, 2]", "output": "four", "gts": {"answer": 4}, "score": 1.0, "step": 12,
        "acc": 1.0, "feedback": "", "error": "", "pred": "4", "truncated": None,
    }  # fmt: skip
    assert (second["pred"], second["truncated"], second["feedback"]) == (None, True, "wrong")


def test_dump_keeps_its_own_fields_and_takes_arrays(tmp_path):
    import numpy as np

    path = dump_samples(tmp_path, 1, [sample(1.0, output="other", tags=np.arange(2))], str)
    record = json.loads(path.read_text())
    assert record["output"] == "four" and record["tags"] == [0, 1]


def test_dump_shows_what_the_teacher_read(tmp_path):
    path = dump_samples(tmp_path, 1, [sample(0.0), sample(1.0)], lambda ids: f"text {ids}", [[7, 8], []])
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [line["teacher_prompt"] for line in lines] == ["text [7, 8]", ""]
