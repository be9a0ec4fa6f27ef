"""What `main` and `best_of_k` share: the command line, and the preset that it is composed with.

Behind the flags stand keys (`vars.task`, `vars.budget`, `trainer.seed`, `trainer.experiment_name`), so that the
resolved configuration in the run folder says everything.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from recipes.test_time.question import find_question, question_id
from verl.config import PPOConfig
from verl.config.checks import ppo_problems
from verl.config.files import missing_files
from verl.trainer.door import Door
from verl.types import InputError


def new_parser(prog: str, description: str | None) -> argparse.ArgumentParser:
    """The flags that both have; whatever else stands on the command line is for the preset."""
    parser = argparse.ArgumentParser(
        prog, description=description, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    add = parser.add_argument
    add("--data-dir", required=True, type=Path, metavar="DIR", help="folder of the question (data/split_questions.py)")
    add("--run-name", metavar="NAME", help="default: <method>-<question>-seed<seed>")
    add("--seed", type=int, default=1, help="of sampling and model (default: %(default)s)")
    add("--budget", type=int, metavar="K", help="attempts (default: vars.budget of the preset, 2750)")
    parser.epilog = "Further arguments: key=value, --config-name PRESET (default: ttt) and other flags of main_ppo."
    return parser


def open_door(
    options: argparse.Namespace,
    rest: Sequence[str],
    method: str,
    plan: Callable[[PPOConfig, list[str]], None],
    run: Callable[[PPOConfig], None],
) -> int:
    """Compose, check and run. Returns the exit status, that of every door (`verl.trainer.door`)."""
    try:
        folder = find_question(options.data_dir)
    except InputError as error:
        print(error, file=sys.stderr)
        return 2
    name = options.run_name or f"{method}-{question_id(folder)}-seed{options.seed}"
    arguments = [
        f"vars.task={folder.resolve()}",
        f"trainer.experiment_name={name}",
        f"trainer.seed={options.seed}",
        *([f"vars.budget={options.budget}"] if options.budget is not None else []),
        *rest,
    ]
    return Door(PPOConfig, "ttt", _problems, missing_files, plan, run).open(arguments)


def budget_of(config: PPOConfig) -> int:
    """Attempts at the question."""
    return int(config.vars["budget"])


def folder_of(config: PPOConfig) -> Path:
    """The question's folder."""
    return Path(config.vars["task"])


def _problems(config: PPOConfig) -> list[str]:
    problems = ppo_problems(config)
    for key in ("train_batch_size", "train_max_samples"):
        if (value := getattr(config.data, key)) != 1:
            problems.append(f"data.{key}={value}: must be 1, since a test-time run is about one question")
    budget = config.vars.get("budget")
    if not isinstance(budget, int) or budget < 1:
        problems.append(f"vars.budget={budget}: must be a whole number of attempts of at least 1 (--budget)")
    if len(config.data.val_files or []) != 1:
        problems.append(f"data.val_files={config.data.val_files}: must be the question's test.parquet alone")
    return problems
