"""Programming tasks through the real command: the tests' verdicts reach the teacher's prompt.

The embedded model writes no programs, so it is taught to first, by the project's own fine-tuning, on programs that add
some number or other: its rollouts are then real programs, a few right and most wrong.
"""

import json
import subprocess
import sys

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from whole_runs import ROOT, read_metrics

NUMBERS = range(1, 9)


def program(number):
    return f"```python\nprint(int(input())+{number})\n```"


def task(index):
    number = NUMBERS[index % len(NUMBERS)]
    tests = {"inputs": ["0\n", "20\n"], "outputs": [f"{number}\n", f"{number + 20}\n"], "testtype": "stdin"}
    return {
        "idx": index,
        "kind": "code",
        "dataset": "code",
        "answer": "-",
        "elo": "-",
        "prompt": f"add {number}",
        "description": "Add a number. The solution will be evaluated in a code environment.",
        "tests": json.dumps({**tests, "fn_name": "", "time_limit": 5}),
        "embedding": [],
        "system": None,
    }


def run(*command, **settings):
    arguments = [f"{key}={value}" for key, value in settings.items()]
    done = subprocess.run([sys.executable, *command, *arguments], cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-5000:]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """The embedded model, having seen programs: it adds any number, whatever the prompt asks for."""
    folder = tmp_path_factory.mktemp("model")
    pairs = [(asked, written) for asked in NUMBERS for written in NUMBERS]
    rows = {"prompt": [f"add {asked}" for asked, _ in pairs], "response": [program(written) for _, written in pairs]}
    pq.write_table(pa.table(rows), folder / "programs.parquet")
    settings = {
        "model.path": "recipes/embedded/model",
        "data.train_files": folder / "programs.parquet",
        "data.train_batch_size": len(pairs),
        "optim.lr": 4e-3,
        "trainer.total_training_steps": 60,
        "trainer.default_local_dir": folder / "run",
    }
    run("-m", "verl.trainer.main_sft", **settings)
    return folder / "run" / "huggingface"


def test_two_steps_on_programs(model, tmp_path):
    for split, size in (("train", 8), ("test", 4)):
        (tmp_path / f"{split}.json").write_text(json.dumps([task(index) for index in range(size)]))
    run("data/preprocess.py", "--data_source", str(tmp_path))
    settings = {
        "vars.model": model,
        "vars.data": tmp_path,
        "data.train_batch_size": 4,
        "data.max_response_length": 64,
        "actor_rollout_ref.actor.ppo_mini_batch_size": 2,
        "actor_rollout_ref.actor.self_distillation.max_reprompt_len": 512,
        "actor_rollout_ref.rollout.n": 4,
        "actor_rollout_ref.rollout.val_kwargs.n": 1,
        "trainer.total_training_steps": 2,
        "trainer.default_local_dir": tmp_path / "run",
        "trainer.rollout_data_dir": tmp_path / "rollouts",
    }
    run("-m", "verl.trainer.main_ppo", "--config-name", "quickstart", **settings)
    assert [line["step"] for line in read_metrics(tmp_path / "run")] == [0, 1, 2]
    lines = [json.loads(line) for step in (1, 2) for line in (tmp_path / "rollouts" / f"{step}.jsonl").open()]
    failed = [
        line for line in lines if line["feedback"].startswith("Test Case 1: Wrong Answer\n\nInput\n0\n\nOutput\n")
    ]
    taught = [line for line in failed if line["feedback"] in line["teacher_prompt"]]
    assert taught, "no failing program's feedback reached the teacher"
    for line in taught:
        assert "feedback from your unsuccessful earlier attempt" in line["teacher_prompt"]
        assert line["score"] == 0.0 and "feedback" not in line["input"]
    assert all((line["score"] == 1.0) == (line["feedback"] == "") for line in lines)
