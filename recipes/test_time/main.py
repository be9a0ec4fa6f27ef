"""Test-time training: SDPO on one question until it is solved, or a budget of attempts is spent.

    python -m recipes.test_time.main --data-dir datasets/lcb_v6_questions/q_03 [--seed 1] [--budget 2750] [key=value]

The distributed trainer with the preset `ttt`: one prompt, 16 responses a step, so that all of them are siblings. Every
attempt is a line of `attempts.jsonl` in the run folder (`outputs/test_time/<run name>`), in the order in which it was
written. Rewards and feedback come from the question's train row; whether an attempt solves it is asked of the test
row. The same command again resumes a run that was interrupted, and leaves a finished one alone.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path

from recipes.test_time.command import budget_of, folder_of, new_parser, open_door
from recipes.test_time.question import question_id
from verl.config import PPOConfig
from verl.config.secrets import redact
from verl.trainer.plan import print_ppo_plan


def with_steps(config: PPOConfig) -> PPOConfig:
    """The configuration with as many steps as the budget needs."""
    steps = math.ceil(budget_of(config) / config.actor_rollout_ref.rollout.n)
    return replace(config, trainer=replace(config.trainer, total_training_steps=steps))


def train_question(config: PPOConfig, in_process: bool) -> None:
    """Train until the question is solved, unless the log says that there is nothing left to do.

    Args:
        in_process: all roles in this process, with one rank, without Ray.
    """
    from recipes.test_time.judge import Judge
    from recipes.test_time.listener import LogAttempts
    from verl.evaluation.attempt_writer import AttemptWriter
    from verl.evaluation.attempts import ATTEMPTS_FILE, Header
    from verl.trainer.listeners import Listener
    from verl.trainer.rl_trainer import RLTrainer
    from verl.trainer.roles import Roles, local_roles
    from verl.trainer.run import Run, run_folder
    from verl.trainer.train import train

    config = with_steps(config)
    name, seed, budget = question_id(folder_of(config)), config.trainer.seed, budget_of(config)
    folder = run_folder(config.trainer)

    def listeners(trainer: RLTrainer, run: Run) -> list[Listener]:
        assert isinstance(trainer.roles, Roles)
        judge = Judge(trainer.data.validation[0], trainer.roles.rewards)
        return [LogAttempts(log, judge, name, seed, budget)]

    @contextmanager
    def local(config: PPOConfig, num_optimizer_steps: int, log_dir: Path) -> Iterator[Roles]:
        with local_roles(config, num_optimizer_steps) as roles:
            yield roles

    header = Header("sdpo", str(config.trainer.experiment_name), redact(asdict(config)))
    with AttemptWriter(folder / ATTEMPTS_FILE, header) as log:
        if not (log.is_solved(name, seed) or log.num_attempts(name, seed) >= budget):
            train(config, listeners, local if in_process else None)
        outcome = "solved" if log.is_solved(name, seed) else "not solved"
        print(f"{name}, seed {seed}: {outcome} after {log.num_attempts(name, seed)} attempts ({folder})")


def main(arguments: Sequence[str] | None = None) -> int:
    """The command. Returns its exit status."""
    parser = new_parser("python -m recipes.test_time.main", __doc__)
    parser.add_argument(
        "--in-process", action="store_true", help="all roles in this process, without Ray: for small models"
    )
    options, rest = parser.parse_known_args(arguments)
    if options.in_process:
        rest = ["trainer.nnodes=1", "trainer.n_gpus_per_node=1", *rest]
    run = partial(train_question, in_process=options.in_process)
    return open_door(options, rest, "sdpo", _plan, run)


def _plan(config: PPOConfig, missing: list[str]) -> None:
    print_ppo_plan(with_steps(config), missing)


if __name__ == "__main__":
    sys.exit(main())
