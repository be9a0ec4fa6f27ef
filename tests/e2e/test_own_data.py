"""The route of a user's own data: JSON rows, `data/preprocess.py`, the `sdpo` preset, validation."""

import json
import subprocess
import sys

from whole_runs import ROOT, read_metrics

SYSTEM = "Select the right answer and put its letter between <answer> and </answer>."


def question(index):
    return {
        "idx": index,
        "kind": "mcq",
        "dataset": "sciknoweval",
        "answer": "ABCD"[index % 4],
        "elo": 1500,
        "prompt": f"Which of the elements has the atomic number {index + 1}?\n\nA: Li\nB: H\nC: He\nD: Be",
        "description": "An element by its number. The solution will be evaluated in a mcq environment.",
        "tests": "-",
        "embedding": [],
        "system": SYSTEM,
    }


def test_two_steps_of_the_sdpo_preset(tmp_path):
    for split, indices in (("train", range(12)), ("test", range(12, 16))):
        lines = (json.dumps(question(index)) + "\n" for index in indices)
        (tmp_path / f"{split}.json").write_text("".join(lines))
    subprocess.run([sys.executable, "data/preprocess.py", "--data_source", str(tmp_path)], cwd=ROOT, check=True)
    settings = {
        "vars.task": tmp_path,
        "trainer.experiment_name": "own-data",
        "trainer.default_local_dir": tmp_path / "run",
        "trainer.n_gpus_per_node": 2,
        "trainer.total_training_steps": 2,
        "actor_rollout_ref.model.path": "recipes/embedded/model",
        "actor_rollout_ref.rollout.n": 4,
        "actor_rollout_ref.actor.ppo_mini_batch_size": 4,
        "data.train_batch_size": 4,
        "data.max_response_length": 32,
    }
    command = [sys.executable, "-m", "verl.trainer.main_ppo", "--config-name", "sdpo"]
    done = subprocess.run(
        [*command, *(f"{key}={value}" for key, value in settings.items())],
        cwd=ROOT, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-5000:]
    lines = read_metrics(tmp_path / "run")
    assert [line["step"] for line in lines] == [0, 1, 2]
    assert 0 <= lines[2]["val-core/sciknoweval/acc/mean@4"] <= 1
    assert lines[2]["prompt_length/mean"] > 100  # letter by letter: the embedded tokenizer knows no such words
