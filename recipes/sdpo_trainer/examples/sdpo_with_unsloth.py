"""SDPO with Unsloth: a base model in 4 bits, student and teacher as adapters on it.

    pip install unsloth                                             # needs a GPU
    python recipes/sdpo_trainer/examples/sdpo_with_unsloth.py

Unsloth replaces parts of transformers, peft and TRL, so it is imported before all of them. `SDPOTrainer` builds on the
`GRPOTrainer` that TRL has when the name is first used, so Unsloth's patch must be made before that too.
"""

from __future__ import annotations

import sys
from typing import Any

try:
    from unsloth import FastLanguageModel, PatchFastRL  # pyright: ignore[reportMissingImports]
except ImportError:
    FastLanguageModel = None
else:
    PatchFastRL("GRPO", FastLanguageModel)

from common import grpo_settings, questions, read_arguments, report
from sdpo_trainer import SDPOConfig, check_unsloth_import_order

MAX_LENGTH, MAX_COMPLETION = 4096, 1024
MODULES = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def graded(completions: list[Any], answer: list[str], data_source: list[str], **columns: Any) -> list[dict[str, Any]]:
    """Score and feedback."""
    from verl.rewards.table import compute_score

    rows = zip(data_source, completions, answer, strict=True)
    told = [compute_score(source, completion[0]["content"], truth) for source, completion, truth in rows]
    return [{"score": each["score"], "feedback": each["feedback"]} for each in told]


def main() -> None:
    """Train, or say that Unsloth is missing; with `--smoke` that is no error."""
    arguments = read_arguments(__doc__, model="unsloth/Qwen3-4B")
    if FastLanguageModel is None:
        told = "Unsloth is not installed, so nothing was trained: pip install unsloth (it needs a GPU)"
        if arguments.smoke:
            print(told)
            return
        sys.exit(told)
    if not check_unsloth_import_order():
        sys.exit("Unsloth was imported too late, see the warning above")
    from sdpo_trainer import SDPOTrainer  # built now, on Unsloth's GRPOTrainer

    model, tokenizer = FastLanguageModel.from_pretrained(arguments.model, max_seq_length=MAX_LENGTH, load_in_4bit=True)
    model = FastLanguageModel.get_peft_model(
        model, r=16, lora_alpha=32, target_modules=MODULES, use_gradient_checkpointing="unsloth"
    )
    trainer = SDPOTrainer(
        model=model,
        args=grpo_settings(arguments, learning_rate=1e-5, max_completion_length=MAX_COMPLETION),
        sdpo_config=SDPOConfig(teacher_mode="lora_ema", max_reprompt_length=MAX_LENGTH - MAX_COMPLETION),
        processing_class=tokenizer,
        reward_funcs=graded,
        train_dataset=questions(arguments),
    )
    trainer.train()
    report(trainer)


if __name__ == "__main__":
    main()
