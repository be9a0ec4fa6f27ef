"""SFT data from the self-teacher: by hand, and with the real commands."""

import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from recipes.self_teacher_sft import data
from recipes.self_teacher_sft.data import main, select, teacher_prompts
from verl.config import PPOConfig, SFTConfig
from verl.config.checks import ppo_problems, sft_problems
from verl.self_distillation.reprompt import Reprompt
from verl.self_distillation.sections import Sections
from verl.trainer.compose import compose
from verl.trainer.record import Identity, write_identity, write_step
from verl.trainer.sampling import Batch
from verl.types import InputError, Prompt, Reward, Rollout, Sample

ROOT = Path(__file__).resolve().parents[2]


def said(text):
    return [{"role": "user", "content": text}]


def sample(index, truth):
    rollout = Rollout(0, [1], [2], [-1.0], [1], "stop", 0)
    return Sample(
        "u", Prompt(index, said(f"q{index}"), [1], "own", truth, {"x": index}), rollout, "r", Reward(0.0, 0.0)
    )


@pytest.fixture
def recording(tmp_path):
    """Two steps: the first question is shown twice in the same way and once otherwise; another has no target."""
    folder = tmp_path / "recording"
    shown = [Reprompt(said(text), [7], Sections("s")) for text in ("q0 and A", "q0 and A", "q0 and B")]
    none = Reprompt(said("q1"), [], Sections())
    write_step(folder, 1, Batch([sample(0, "a"), sample(0, "a"), sample(1, "b")], [*shown[:2], none]))
    write_step(folder, 2, Batch([sample(0, "a"), sample(2, "c")], [shown[2], replace(shown[2], messages=said("q2!"))]))
    write_identity(folder, Identity("t", 9, "d", "m"), {})
    return folder


def test_every_different_prompt_of_the_teacher_becomes_a_row(recording):
    rows = teacher_prompts(recording)
    assert [row["prompt"][0]["content"] for row in rows] == ["q0 and A", "q0 and B", "q2!"]
    assert [row["question"][0]["content"] for row in rows] == ["q0", "q0", "q2"]
    assert rows[2] == {
        "prompt": said("q2!"),
        "data_source": "own",
        "reward_model": {"ground_truth": "c"},
        "extra_info": {"x": 2},
        "question": said("q2"),
    }


def answers(*scored):
    return [{"output": text, "gts": truth, "score": score} for text, truth, score in scored]


ANSWERS = answers(("1", "a", 1.0), ("2", "a", 0.0), ("3", "a", 1.0), ("1", "a", 1.0), ("4", "c", 0.5), ("5", "c", 1.0))


def test_right_answers_are_kept_with_the_plain_question(recording):
    rows = teacher_prompts(recording)
    kept = select(rows, ANSWERS, 1.0)
    assert [(row["prompt"][0]["content"], row["response"]) for row in kept] == [("q0", "1"), ("q0", "3"), ("q2", "5")]
    assert [row["response"] for row in select(rows, ANSWERS, 0.5, most=1)] == ["1", "4"]


@pytest.mark.parametrize(
    ("given", "threshold", "message"),
    [
        (ANSWERS[:5], 1.0, "max_prompt_length"),
        (ANSWERS[::-1], 1.0, "another question"),
        (ANSWERS, 2.0, "none of the 6"),
    ],
)
def test_answers_that_do_not_fit_are_refused(recording, given, threshold, message):
    with pytest.raises(InputError, match=message):
        select(teacher_prompts(recording), given, threshold)


def test_mistakes_are_told_without_a_traceback(tmp_path, capsys):
    assert main(["prompts", str(tmp_path), str(tmp_path / "out")]) == 1
    assert "is not a recording" in capsys.readouterr().err
    assert main(["select", str(tmp_path / "none"), str(tmp_path / "none"), str(tmp_path / "out")]) == 1
    write_step(tmp_path, 1, Batch([sample(0, "a")], None))
    write_identity(tmp_path, Identity("t", 9, "d", "m"), {})
    assert main(["prompts", str(tmp_path), str(tmp_path / "out")]) == 1
    assert "no sample in this recording has a target" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_the_commands_of_the_recipe_compose(monkeypatch):
    text = (data.__doc__ or "").replace("\\\n", " ")
    commands = re.findall(r"python -m (\S+) (.*)", text)
    assert [name.split(".")[-1] for name, _ in commands] == ["main_ppo", "data", "main_ppo", "data", "main_sft"]
    monkeypatch.delenv("EXPERIMENT", raising=False)
    for (name, arguments), (cls, check) in zip(
        [command for command in commands if "main_" in command[0]],
        [(PPOConfig, ppo_problems), (PPOConfig, ppo_problems), (SFTConfig, sft_problems)],
        strict=True,
    ):
        preset = "sft_trainer" if name.endswith("main_sft") else "ppo_trainer"
        assert len(compose(cls, preset, arguments.split(), check)) == 1


@pytest.mark.slow
def test_the_commands_one_after_another(tmp_path):
    """Attempts, the teacher's prompts, its answers, the right ones, and fine-tuning on them, on the embedded task."""

    def run(module, *arguments):
        environment = os.environ | {"PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1", "USER": "ada"}
        command = [sys.executable, "-m", module, *arguments]
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=400)
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]

    task, prompts, sft = tmp_path / "task", tmp_path / "prompts.parquet", tmp_path / "sft.parquet"
    run("recipes.embedded.make_data", "--output_dir", str(task))
    common = [
        "--config-name=quickstart",
        f"vars.data={task}",
        "actor_rollout_ref.rollout.name=hf",
        "trainer.device=cpu",
        "trainer.n_gpus_per_node=1",
        "trainer.total_training_steps=1",
        "trainer.test_freq=-1",
        "trainer.val_before_train=False",
        "trainer.save_freq=-1",
    ]
    first = [f"trainer.record={tmp_path}/attempts", "actor_rollout_ref.actor.optim.lr=0"]
    run("verl.trainer.main_ppo", *common, *first, f"trainer.default_local_dir={tmp_path}/one")
    run("recipes.self_teacher_sft.data", "prompts", f"{tmp_path}/attempts", str(prompts))
    second = [f"data.val_files={prompts}", "trainer.val_only=True", "actor_rollout_ref.rollout.val_kwargs.n=2"]
    second += [f"trainer.validation_data_dir={tmp_path}/answers", "data.max_prompt_length=128"]
    run("verl.trainer.main_ppo", *common, *second, f"trainer.default_local_dir={tmp_path}/two")
    run("recipes.self_teacher_sft.data", "select", str(prompts), f"{tmp_path}/answers/0.jsonl", str(sft))
    rows, asked = pq.read_table(sft).to_pylist(), pq.read_table(prompts).to_pylist()
    scores = [json.loads(line)["score"] for line in (tmp_path / "answers/0.jsonl").read_text().splitlines()]
    assert len(scores) == 2 * len(asked) and 0 < len(rows) <= sum(score >= 1 for score in scores)
    questions = [row["question"] for row in asked]
    assert all(row["prompt"] in questions and row["prompt"] not in [a["prompt"] for a in asked] for row in rows)
    model = ROOT / "recipes/embedded/model"
    sft_settings = [f"model.path={model}", f"data.train_files={sft}", "trainer.device=cpu", "data.train_batch_size=4"]
    sft_settings += ["trainer.total_training_steps=1", f"trainer.default_local_dir={tmp_path}/three"]
    run("verl.trainer.main_sft", *sft_settings)
