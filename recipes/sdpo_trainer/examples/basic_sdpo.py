"""SDPO on mathematics with a reward that is a number and nothing else.

    python recipes/sdpo_trainer/examples/basic_sdpo.py [--smoke]

What a wrong answer learns from is a right one to the same question: the teacher sees it, the student does not. So
questions count that are sometimes answered right. Where none of a group is, a number says nothing; see
sdpo_rich_feedback.py.
"""

from __future__ import annotations

from typing import Any

from common import grpo_settings, questions, read_arguments, report
from sdpo_trainer import SDPOConfig, SDPOTrainer
from transformers import AutoTokenizer

from verl.rewards.table import compute_score


def is_right(completions: list[Any], answer: list[str], data_source: list[str], **columns: Any) -> list[float]:
    """1 for the right answer, else 0; columns of the data set arrive by name, as in TRL."""
    rows = zip(data_source, completions, answer, strict=True)
    return [compute_score(source, completion[0]["content"], truth)["score"] for source, completion, truth in rows]


def main() -> None:
    """Train."""
    arguments = read_arguments(__doc__, model="Qwen/Qwen3-0.6B")
    trainer = SDPOTrainer(
        model=arguments.model,
        args=grpo_settings(arguments, learning_rate=1e-6),
        sdpo_config=SDPOConfig(teacher_mode="ema", teacher_update_rate=0.05),
        processing_class=AutoTokenizer.from_pretrained(arguments.model),
        reward_funcs=is_right,
        train_dataset=questions(arguments),
    )
    trainer.train()
    report(trainer)


if __name__ == "__main__":
    main()
