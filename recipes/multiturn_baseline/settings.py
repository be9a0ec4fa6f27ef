"""The flags of `multiturn.py`: each is a field of `Settings`, whose default and comment it has."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from recipes.multiturn_baseline.prompts import TEMPLATES
from verl.registry import ENGINES, TRACKERS
from verl.types import InputError


@dataclass(frozen=True)
class Settings:
    """One run: one question, one seed."""

    data_dir: Path
    run_name: str
    template: str
    seed: int
    model: str
    max_new_tokens: int
    temperature: float
    top_p: float
    top_k: int
    tensor_parallel_size: int
    dtype: str
    gpu_memory_utilization: float
    split: str
    max_turns: int
    max_context_len: int
    enable_thinking: bool
    dense_reward: bool
    reward_function: str | None
    engine: str
    device: str
    trust_remote_code: bool
    output_dir: Path
    resume: Path | None
    logger: list[str]

    def as_plain(self) -> dict[str, Any]:
        """For the log's header: what JSON can say."""
        return {name: str(value) if isinstance(value, Path) else value for name, value in asdict(self).items()}


PLACEMENT = {
    "run_name",
    "output_dir",
    "resume",
    "logger",
    "data_dir",
    "max_turns",
    "tensor_parallel_size",
    "gpu_memory_utilization",
    "device",
}
"""May be different when a run goes on: they do not change what the model is asked."""


def check_same(before: dict[str, Any], now: Settings) -> None:
    """Refuse to go on with a log that was begun with other settings (InputError names them)."""
    present = now.as_plain()
    changed = [
        f"--{field.name.replace('_', '-')} {before[field.name]} -> {present[field.name]}"
        for field in fields(Settings)
        if field.name not in PLACEMENT and field.name in before and before[field.name] != present[field.name]
    ]
    if changed:
        raise InputError(
            f"The log was begun with other settings ({'; '.join(changed)}): restore them, or choose another --run-name."
        )


def parse(description: str | None, arguments: Sequence[str] | None) -> Settings:
    """Read the command line. Exits with status 2 and a message when it is wrong."""
    parser = argparse.ArgumentParser(
        "python -m recipes.multiturn_baseline.multiturn",
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--data-dir", type=Path, required=True, metavar="DIR", help="folder of the question (data/split_questions.py)")
    add("--run-name", default="", help="default: <question>-<template>-seed<seed>")
    add("--template", choices=list(TEMPLATES), default="feedback_only", help="what of earlier turns is shown, and how")
    add("--seed", type=int, default=0, help="of sampling (default: %(default)s)")
    add("--model", default="Qwen/Qwen3-8B", help="folder or hub name (default: %(default)s)")
    add("--max-new-tokens", type=_positive, default=8192, help="longest response (default: %(default)s)")
    add("--temperature", type=float, default=1.0)
    add("--top-p", type=float, default=1.0)
    add("--top-k", type=int, default=-1, help="-1: all tokens")
    add("--tensor-parallel-size", type=_positive, default=1, help="GPUs of the engine (default: %(default)s)")
    add("--dtype", choices=["bfloat16", "float32"], default="bfloat16")
    add("--gpu-memory-utilization", type=float, default=0.7, help="the engine's share of a GPU (default: %(default)s)")
    add("--split", choices=["train", "test"], default="train", help="row that gives rewards and feedback")
    add("--max-turns", type=_positive, default=2880, help="attempts in all (default: %(default)s)")
    add(
        "--max-context-len",
        type=_positive,
        default=32000,
        metavar="TOKENS",
        help="longest prompt; the oldest attempts are dropped first (default: %(default)s)",
    )
    add("--enable-thinking", action="store_true", help="passed to the chat template")
    add("--dense-reward", action="store_true", help="the share of tests passed in place of all or nothing")
    add("--reward-function", metavar="FILE", help="Python file with a compute_score of your own")
    add("--engine", choices=ENGINES.names, default="vllm")
    add("--device", choices=["auto", "cpu", "cuda"], default="auto")
    add("--trust-remote-code", action="store_true", help="let the model's own code run")
    add("--output-dir", type=Path, default=Path("outputs/multiturn_baseline"), metavar="DIR")
    add("--resume", type=Path, metavar="FILE", help="go on with this log of another job")
    add("--logger", nargs="*", choices=TRACKERS.names, default=[], help="trackers; none are needed")
    return Settings(**vars(parser.parse_args(arguments)))


def _positive(text: str) -> int:
    if (number := int(text)) < 1:
        raise argparse.ArgumentTypeError(f"{text}: must be at least 1")
    return number
