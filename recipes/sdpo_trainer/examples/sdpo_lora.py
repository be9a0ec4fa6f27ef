"""SDPO with LoRA: student and teacher are two adapters on one base model.

    python recipes/sdpo_trainer/examples/sdpo_lora.py [--smoke]

The teacher costs an adapter, not a second model. It follows the student by averaging A and B separately, which is not
the average of the products B A; `lora_ema_exact=True` averages these, for small models. The saved model is the student
alone.
"""

from __future__ import annotations

from typing import Any

from common import grpo_settings, questions, read_arguments, report
from peft import LoraConfig
from sdpo_trainer import SDPOConfig, SDPOTrainer
from transformers import AutoTokenizer

from verl.rewards.table import compute_score


class Checker:
    """A reward that keeps its feedback in an attribute: `last_feedback`, one text or None for each completion."""

    def __init__(self) -> None:
        self.last_feedback: list[str | None] = []

    def __call__(
        self, completions: list[Any], answer: list[str], data_source: list[str], **columns: Any
    ) -> list[float]:
        rows = zip(data_source, completions, answer, strict=True)
        told = [compute_score(source, completion[0]["content"], truth) for source, completion, truth in rows]
        self.last_feedback = [each["feedback"] or None for each in told]
        return [each["score"] for each in told]


def main() -> None:
    """Train."""
    arguments = read_arguments(__doc__, model="Qwen/Qwen3-1.7B")
    trainer = SDPOTrainer(
        model=arguments.model,
        args=grpo_settings(arguments, learning_rate=1e-5),
        sdpo_config=SDPOConfig(teacher_mode="lora_ema", teacher_update_rate=0.05),
        processing_class=AutoTokenizer.from_pretrained(arguments.model),
        reward_funcs=Checker(),
        train_dataset=questions(arguments),
        peft_config=LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM"),
    )
    trainer.train()
    report(trainer)


if __name__ == "__main__":
    main()
