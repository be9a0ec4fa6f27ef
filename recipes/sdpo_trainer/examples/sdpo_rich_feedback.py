"""SDPO on programming: a program that fails is told which test it fails, and how.

    python recipes/sdpo_trainer/examples/sdpo_rich_feedback.py [--smoke]

The reward function returns a dictionary for each answer: the score, and the feedback that the teacher reads. So also
groups without any success teach. Programs of MBPP run in the sandbox of `verl` (Linux; see "Security of graded code" in
the README). With `--smoke` the embedded model calls an API whose errors are the feedback.
"""

from __future__ import annotations

import argparse
import json
from typing import Any

from common import grpo_settings, read_arguments, report, smoke_questions
from datasets import Dataset, load_dataset
from sdpo_trainer import SDPOConfig, SDPOTrainer
from transformers import AutoTokenizer

from verl.rewards.table import compute_score


def graded(completions: list[Any], answer: list[str], data_source: list[str], **columns: Any) -> list[dict[str, Any]]:
    """Score and feedback; any other number is logged, here as `rewards/graded/tests_passed/mean`."""
    results = []
    for source, completion, truth in zip(data_source, completions, answer, strict=True):
        told = compute_score(source, completion[0]["content"], truth)
        results.append({"score": told["score"], "feedback": told["feedback"], "tests_passed": told["acc"]})
    return results


def programming_questions() -> Dataset:
    """MBPP: columns `prompt`, `answer` (the tests as JSON) and `data_source`."""

    def convert(row: dict[str, Any]) -> dict[str, Any]:
        return question(row["prompt"], row["test_imports"], row["test_list"])

    data = load_dataset("google-research-datasets/mbpp", "sanitized", split="train")
    return data.map(convert, remove_columns=data.column_names)


def question(problem: str, imports: list[str], tests: list[str]) -> dict[str, Any]:
    """One row. The first test is shown, since it alone tells the function's name; all are run."""
    text = f"{problem}\n\nThis must hold:\n\n{tests[0]}\n\nPut your program inside a ```python ... ``` block."
    cases = ["\n".join([*imports, test]) for test in tests]
    truth = {"testtype": "code", "inputs": cases, "outputs": [""] * len(cases), "time_limit": 5}
    return {"prompt": [{"role": "user", "content": text}], "answer": json.dumps(truth), "data_source": "code"}


def make_trainer(arguments: argparse.Namespace) -> Any:
    """The trainer; a real model is shown feedback also beside a sibling's success."""
    return SDPOTrainer(
        model=arguments.model,
        args=grpo_settings(arguments, learning_rate=1e-6),
        sdpo_config=SDPOConfig(
            teacher_mode="ema",
            success_reward_threshold=1.0,
            environment_feedback_only_without_solution=arguments.smoke,  # the embedded model reads one or the other
        ),
        processing_class=AutoTokenizer.from_pretrained(arguments.model),
        reward_funcs=graded,
        train_dataset=smoke_questions() if arguments.smoke else programming_questions(),
    )


def main() -> None:
    """Train."""
    trainer = make_trainer(read_arguments(__doc__, model="Qwen/Qwen3-0.6B"))
    trainer.train()
    report(trainer)


if __name__ == "__main__":
    main()
