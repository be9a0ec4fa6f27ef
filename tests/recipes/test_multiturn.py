"""The multi-turn baseline: real runs of the embedded model, the hf engine, a scorer that tells the rows apart."""

import json
from pathlib import Path

import pytest
from one_question import lines, without_times, write_question

from recipes.multiturn_baseline import multiturn
from recipes.multiturn_baseline.settings import parse
from verl.evaluation.attempts import read_attempts

MODEL = Path(__file__).resolve().parents[2] / "recipes/embedded/model"
LOG = "multiturn-q_01-feedback_only-seed0-local.jsonl"


@pytest.fixture(autouse=True)
def _no_job(monkeypatch):
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)


def run(question, folder, turns, *more, cap=60):
    flags = ["--engine=hf", "--device=cpu", "--dtype=float32", f"--model={MODEL}", "--max-new-tokens=24"]
    flags += [f"--data-dir={question}", f"--output-dir={folder}", f"--max-turns={turns}", f"--max-context-len={cap}"]
    return multiturn.main([*flags, f"--reward-function={question.with_name('q_01')}/scorer.py", *more])


def test_the_flags_have_the_documented_defaults():
    found = parse(None, ["--data-dir", "q_1"])
    expected = {
        "template": "feedback_only",
        "seed": 0,
        "model": "Qwen/Qwen3-8B",
        "max_new_tokens": 8192,
        "temperature": 1.0,
        "top_p": 1.0,
        "top_k": -1,
        "tensor_parallel_size": 1,
        "dtype": "bfloat16",
        "gpu_memory_utilization": 0.7,
        "split": "train",
        "max_turns": 2880,
        "max_context_len": 32000,
        "enable_thinking": False,
        "dense_reward": False,
        "engine": "vllm",
        "logger": [],
    }
    assert {name: getattr(found, name) for name in expected} == expected


def test_turns_go_on_until_the_hidden_tests_pass_and_say_what_was_shown(tmp_path, capsys):
    right = "'amount' in solution_str or (ground_truth == 'public' and 'level' in solution_str)"
    write_question(tmp_path / "q_01", right=right)
    assert run(tmp_path / "q_1", tmp_path, 200, cap=44) == 0  # another spelling of its name
    header, turns = lines(tmp_path / LOG)
    assert header["method"] == "multiturn" and header["wandb_run_name"] == "q_01-feedback_only-seed0"
    assert header["config"]["template"] == "feedback_only"
    assert [turn["turn"] for turn in turns] == [turn["attempt"] for turn in turns] == list(range(1, len(turns) + 1))
    assert [turn["solved"] for turn in turns] == [False] * (len(turns) - 1) + [True]
    assert [turn["reward"] for turn in turns] == [
        float("level" in turn["response"] or "amount" in turn["response"]) for turn in turns
    ]
    assert 0.0 in {turn["reward"] for turn in turns}
    assert turns[0]["prompt"] == [{"role": "user", "content": "oven in the attic to 2"}]
    told = "The following is feedback from your unsuccessful earlier attempt:\n\npublic put."
    for turn in turns[1:]:
        assert turn["prompt_tokens"] <= 44
        (message,) = turn["prompt"]
        assert "hidden" not in message["content"]
        assert message["content"].count(told) == (message["content"] != "oven in the attic to 2")
    assert turns[1]["num_dropped"] in (0, 1)
    summary = json.loads((tmp_path / LOG).with_suffix(".summary.json").read_text())
    assert (summary["final_reward"], summary["solved"], summary["total_turns"]) == (1.0, True, len(turns))
    assert summary["max_context_len"] == 44
    assert summary["max_context_len_exceeded"] == any(turn["num_dropped"] for turn in turns)
    before = (tmp_path / LOG).read_bytes()
    assert run(tmp_path / "q_1", tmp_path, 200, cap=44) == 0
    assert (tmp_path / LOG).read_bytes() == before
    assert json.loads(capsys.readouterr().out.splitlines()[-1].split(" (")[0]) == summary


@pytest.mark.parametrize("template", ["feedback_only", "attempt_and_feedback"])
def test_a_run_goes_on_from_its_log_as_if_it_had_not_stopped(tmp_path, template):
    question = write_question(tmp_path / "q_01")
    log = f"multiturn-q_01-{template}-seed0-local.jsonl"
    assert run(question, tmp_path / "whole", 8, "--template", template) == 0
    assert run(question, tmp_path / "parts", 5, "--template", template) == 0
    with open(tmp_path / "parts" / log, "a") as file:
        file.write('{"turn": 6, "promp')  # killed while it wrote
    assert run(question, tmp_path / "parts", 8, "--template", template) == 0
    (_, whole), (_, parts) = (lines(tmp_path / name / log) for name in ("whole", "parts"))
    assert without_times(parts) == without_times(whole)
    assert [turn["turn"] for turn in whole] == list(range(1, 9))
    assert whole[-1]["num_dropped"] > whole[1]["num_dropped"] == 0
    summaries = [json.loads((tmp_path / n / log).with_suffix(".summary.json").read_text()) for n in ("whole", "parts")]
    assert [s["max_context_len_exceeded"] for s in summaries] == [True, True]


def test_questions_that_share_a_log_do_not_read_each_other(tmp_path):
    first, second = write_question(tmp_path / "q_01"), write_question(tmp_path / "q_02")
    assert run(first, tmp_path / "both", 3, "--run-name=x") == 0
    assert run(second, tmp_path / "both", 3, "--run-name=x") == 0
    assert run(second, tmp_path / "alone", 3, "--run-name=x") == 0
    name = "multiturn-x-local.jsonl"
    (_, both), (_, alone) = lines(tmp_path / "both" / name), lines(tmp_path / "alone" / name)
    assert [turn["turn"] for turn in both] == [1, 2, 3, 1, 2, 3]
    assert without_times(both[3:]) == without_times(alone)
    assert json.loads((tmp_path / "both" / name).with_suffix(".summary.json").read_text())["total_turns"] == 3


def test_a_run_that_is_asked_to_stop_ends_after_its_turn_and_asks_to_be_started_again(tmp_path, monkeypatch, capsys):
    question = write_question(tmp_path / "q_01")
    (tmp_path / "stop").touch()
    monkeypatch.setenv("VERL_STOP_FILE", str(tmp_path / "stop"))
    assert run(question, tmp_path, 3) == 75
    assert "asked to stop after turn 1, which is saved; the same command goes on from there" in capsys.readouterr().err
    assert run(question, tmp_path, 2) == 0  # the second is the last
    assert [turn["turn"] for turn in lines(tmp_path / LOG)[1]] == [1, 2]


def test_a_log_of_another_job_is_gone_on_with_but_not_with_other_settings(tmp_path, monkeypatch, capsys):
    question = write_question(tmp_path / "q_01")
    monkeypatch.setenv("SLURM_JOB_ID", "77")
    assert run(question, tmp_path, 2) == 0
    old = tmp_path / LOG.replace("local", "77")
    monkeypatch.setenv("SLURM_JOB_ID", "78")
    assert run(question, tmp_path, 3, "--resume", str(old)) == 0
    assert len(read_attempts(old).attempts) == 3 and not (tmp_path / LOG.replace("local", "78")).exists()
    assert run(question, tmp_path, 4, "--resume", str(old), "--temperature", "0.5") == 2
    assert "begun with other settings (--temperature 1.0 -> 0.5)" in capsys.readouterr().err
    assert run(question, tmp_path, 4, "--resume", str(tmp_path / "none.jsonl")) == 2
    assert "none.jsonl: there is no such file" in capsys.readouterr().err


def test_a_cut_response_is_told_to_the_judge_and_trackers_are_a_choice(tmp_path):
    question = write_question(tmp_path / "q_01", right="False", more="right = extra_info['truncated']")
    assert run(question, tmp_path, 3, "--max-new-tokens", "4", "--run-name", "cut", "--logger", "file") == 0
    _, turns = lines(tmp_path / "multiturn-cut-local.jsonl")
    assert [(turn["response_tokens"], turn["reward"]) for turn in turns] == [(4, 1.0)]  # right by both rows: it ends
    assert [json.loads(line)["reward"] for line in (tmp_path / "cut/metrics.jsonl").read_text().splitlines()] == [1.0]
