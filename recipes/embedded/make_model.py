"""Make the shipped model from nothing: tokenizer, random weights, version 1's call logs, supervised fine-tuning.

    python recipes/embedded/make_model.py

A Qwen3 of 139,000 parameters, small enough to ship in the repository, and of an architecture that every engine knows.
Takes a few minutes on one core.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import torch
from transformers import GenerationConfig, PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # so that the file runs as a script from anywhere

from recipes.embedded.make_data import CHAT, write_rows
from recipes.embedded.make_tokenizer import MAX_LENGTH, make_tokenizer
from recipes.embedded.mixture import sft_rows

ROOT = Path(__file__).resolve().parents[2]
MODEL = Path(__file__).parent / "model"
BATCH_SIZE = 64
SFT_SCHEMA = pa.schema([("prompt", CHAT), ("response", pa.large_string())])


def initial_model(tokenizer: PreTrainedTokenizerFast) -> Qwen3ForCausalLM:
    """Random weights, float32."""
    special = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id, "bos_token_id": None}
    config = Qwen3Config(
        vocab_size=len(tokenizer),
        hidden_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=4,
        head_dim=32,  # the smallest that vLLM's CPU attention takes
        intermediate_size=128,
        tie_word_embeddings=True,
        max_position_embeddings=MAX_LENGTH,
        dtype="float32",
        **special,
    )
    model = Qwen3ForCausalLM(config)
    model.generation_config = GenerationConfig(do_sample=True, temperature=1.0, **special)
    return model


def sft_command(initial: Path, rows: Path, run: Path, steps: int, seed: int) -> list[str]:
    """The pre-training, as one call of the project's own trainer."""
    overrides = {
        "model.path": initial,
        "model.enable_gradient_checkpointing": False,
        "data.train_files": f"[{rows}]",
        "data.train_batch_size": BATCH_SIZE,
        "data.max_length": 128,
        "data.shuffle": False,  # rows are independent draws already
        "optim.lr": 4e-3,
        "optim.betas": "[0.9,0.98]",
        "optim.weight_decay": 0.01,
        "optim.lr_warmup_steps": 100,
        "optim.lr_scheduler_type": "linear",
        "optim.min_lr_ratio": 0.1,
        "trainer.total_training_steps": steps,
        "trainer.default_local_dir": run,
        "trainer.resume_mode": "disable",
        "trainer.device": "cpu",
        "trainer.seed": seed,
    }
    return [sys.executable, "-m", "verl.trainer.main_sft", *(f"{key}={value}" for key, value in overrides.items())]


def make_model(work_dir: Path, output_dir: Path, steps: int, seed: int) -> None:
    """Pre-train in `work_dir` and copy the result to `output_dir`."""
    initial, rows, run = work_dir / "initial", work_dir / "train.parquet", work_dir / "run"
    torch.manual_seed(seed)
    tokenizer = make_tokenizer()
    model = initial_model(tokenizer)
    model.save_pretrained(initial)
    tokenizer.save_pretrained(str(initial))
    write_rows(sft_rows(BATCH_SIZE * steps, seed), SFT_SCHEMA, rows)
    subprocess.run(sft_command(initial, rows, run, steps, seed), check=True, cwd=ROOT)
    output_dir.mkdir(parents=True, exist_ok=True)
    for file in (run / "huggingface").iterdir():
        shutil.copyfile(file, output_dir / file.name)
    print(f"{output_dir}: {model.num_parameters():,} parameters")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work_dir", type=Path, default=ROOT / "runs" / "embedded_model")
    parser.add_argument("--output_dir", type=Path, default=MODEL)
    parser.add_argument("--steps", type=int, default=2500)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    make_model(arguments.work_dir.resolve(), arguments.output_dir.resolve(), arguments.steps, arguments.seed)
