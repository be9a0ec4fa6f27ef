"""What the examples share: the command line, GSM8K, the small task of `--smoke`, and the line at the end.

With `--smoke` an example trains the embedded model on its own task for three steps on a CPU and downloads nothing. The
rewards of both come from `verl.rewards`, by the row's `data_source`, as in the distributed trainer.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from datasets import Dataset, load_dataset

if TYPE_CHECKING:  # imported when it is used: Unsloth wants to be imported first
    from trl import GRPOConfig  # pyright: ignore[reportPrivateImportUsage]

ROOT = Path(__file__).resolve().parents[3]
SMOKE_MODEL = str(ROOT / "recipes" / "embedded" / "model")
SMOKE = {
    "use_cpu": True,
    "bf16": False,
    "max_steps": 3,
    "per_device_train_batch_size": 32,
    "gradient_accumulation_steps": 1,
    "max_completion_length": 20,
    "learning_rate": 1e-3,
    "gradient_checkpointing": False,
    "use_vllm": False,
}
"""Of GRPOConfig; learns visibly in seconds."""


def read_arguments(description: str | None, model: str) -> argparse.Namespace:
    """The command line of an example; with `--smoke` the model is the embedded one."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=model, help=f"name or folder (default: {model})")
    parser.add_argument("--output_dir", default="runs/trl", help="for checkpoints and the model (default: runs/trl)")
    parser.add_argument("--max_steps", type=int, default=200, help="optimizer steps (default: 200)")
    parser.add_argument("--use_vllm", action="store_true", help="generate with vLLM on the same GPU")
    parser.add_argument("--smoke", action="store_true", help="three steps of the embedded model on a CPU, no download")
    arguments = parser.parse_args()
    if arguments.smoke:
        arguments.model = SMOKE_MODEL
    return arguments


def grpo_settings(arguments: argparse.Namespace, **settings: Any) -> GRPOConfig:
    """TRL's configuration: 8 answers for each of 8 questions in an optimizer step, and whatever the example sets."""
    from trl import GRPOConfig  # pyright: ignore[reportPrivateImportUsage]

    common: dict[str, Any] = {
        "max_steps": arguments.max_steps,
        "per_device_train_batch_size": 8,
        "gradient_accumulation_steps": 8,
        "num_generations": 8,
        "max_completion_length": 1024,
        "use_vllm": arguments.use_vllm,
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": "none",
    }
    return GRPOConfig(arguments.output_dir, **(common | settings | (SMOKE if arguments.smoke else {})))


def questions(arguments: argparse.Namespace) -> Dataset:
    """GSM8K, or the task of the embedded model: columns `prompt`, `answer` and `data_source`."""
    if arguments.smoke:
        return smoke_questions()

    def convert(row: dict[str, Any]) -> dict[str, Any]:
        text = f"{row['question']}\n\nPlease reason step by step, and put your final answer within \\boxed{{}}."
        answer = row["answer"].rpartition("####")[2].strip()
        return {"prompt": [{"role": "user", "content": text}], "answer": answer, "data_source": "gsm8k"}

    data = load_dataset("openai/gsm8k", "main", split="train")
    return data.map(convert, remove_columns=data.column_names)


def smoke_questions() -> Dataset:
    """Calls of an undocumented API, see recipes/embedded/task.py."""
    sys.path.insert(0, str(ROOT))
    from recipes.embedded.task import rl_rows

    return Dataset.from_list(
        [
            {
                "prompt": row["prompt"],
                "answer": row["reward_model"]["ground_truth"],
                "data_source": row["data_source"],
            }
            for row in rl_rows("train", "strong")
        ]
    )


def report(trainer: Any) -> None:
    """Save the student, and say what the first and the last step got."""
    trainer.save_model()
    steps = [entry for entry in trainer.state.log_history if "reward" in entry]
    first, last = steps[0], steps[-1]
    taught = sum(entry["sdpo/teacher_coverage"] for entry in steps) / len(steps)
    print(
        f"{trainer.state.global_step} steps: reward {first['reward']:.3f} -> {last['reward']:.3f}, loss"
        f" {first['loss']:.4f} -> {last['loss']:.4f}, {taught:.0%} of the answers had something to learn from; saved in"
        f" {trainer.args.output_dir}"
    )
