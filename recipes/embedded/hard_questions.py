"""Find questions that the embedded model almost never answers, and make a folder of each for test-time training.

    python recipes/embedded/hard_questions.py --output_dir runs/test_time/questions

The model's success rate is known without sampling: only one response is right, so it is that response's probability,
one forward for each question. Hard are held-out questions of at most `--most` (1 in 500). Rooms and levels hardly
matter, so a device is asked about once, with its first hard question in the file. Of these, five drawn with a fixed
seed are for figures (`test/`); settings are to be chosen on the others (`tuning/`).
"""

from __future__ import annotations

import argparse
import math
import random
import sys
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # so that the file runs as a script from anywhere

from recipes.embedded.make_data import SCHEMA, write_rows
from recipes.embedded.task import Feedback, Question, rl_rows, splits, version_2
from verl.dataset import encode_messages

MODEL = Path(__file__).parent / "model"
NUM_TEST, SEED = 5, 0
COPIES = 4
"""Of the train row, as in the folders that data/split_questions.py makes."""


class Success:
    """Success rates of a model."""

    def __init__(self, model: str) -> None:
        self.tokenizer = AutoTokenizer.from_pretrained(model)
        self.lm = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)

    @torch.inference_mode()
    def rate(self, question: Question) -> float:
        """Probability of the right call with its end of sequence, at temperature 1: product of p(token | before)."""
        prompt = encode_messages(self.tokenizer, question.messages, {})
        answer = question.answer(version_2()[question.device]).text
        response = [*self.tokenizer.encode(answer, add_special_tokens=False), self.tokenizer.eos_token_id]
        logits = self.lm(input_ids=torch.tensor([prompt + response])).logits[0, len(prompt) - 1 : -1]
        chosen = logits.log_softmax(-1).gather(-1, torch.tensor(response)[:, None])
        return math.exp(chosen.sum().item())


def hard_questions(success: Success, most: float) -> dict[int, float]:
    """Held-out questions with a success rate of at most `most`, the first of each device: their numbers and rates."""
    found: dict[str, tuple[int, float]] = {}
    for number, question in enumerate(splits()["test"]):
        if question.device not in found and (rate := success.rate(question)) <= most:
            found[question.device] = number, rate
    return dict(found.values())


def make_folders(output_dir: Path, rates: dict[int, float], feedback: Feedback) -> None:
    """Write `test/q_<number>` for the drawn questions and `tuning/q_<number>` for the others."""
    drawn = random.Random(SEED).sample(sorted(rates), NUM_TEST)
    rows = rl_rows("test", feedback)
    for number, rate in sorted(rates.items()):
        folder = output_dir / ("test" if number in drawn else "tuning") / f"q_{number:03d}"
        write_rows([rows[number]] * COPIES, SCHEMA, folder / "train.parquet")
        write_rows([rows[number]], SCHEMA, folder / "test.parquet")
        print(f"{folder}: {rows[number]['extra_info']['problem']}, success rate {rate:.1e} (1 in {1 / rate:,.0f})")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output_dir", type=Path, default=Path("runs/test_time/questions"))
    parser.add_argument("--model", default=str(MODEL), help="folder of the base model")
    parser.add_argument("--most", type=float, default=1 / 500, help="success rate of a hard question (default: 1/500)")
    parser.add_argument("--feedback", choices=["weak", "strong"], default="weak", help="wording of the API's errors")
    arguments = parser.parse_args()
    make_folders(arguments.output_dir, hard_questions(Success(arguments.model), arguments.most), arguments.feedback)
