"""Scores of a file of responses: `python -m verl.trainer.main_eval data.path=... [key=value ...]`.

A door only: see `verl.trainer.main_ppo`; the work is done by `verl.trainer.evaluation`. The file is one that
`main_generation` wrote, or any other with responses, data sources and ground truths.
"""

from __future__ import annotations

import sys

from verl.config import EvaluationConfig
from verl.config.checks import evaluation_problems
from verl.config.files import evaluation_missing_files
from verl.trainer.door import Door
from verl.trainer.plan import print_tool_plan


def plan(config: EvaluationConfig, missing: list[str]) -> None:
    """Say what would be scored."""
    scorer = config.custom_reward_function.path or "verl.rewards, by data source"
    lines = [
        ("responses", f"{', '.join(config.data.path or [])} (column {config.data.response_key})"),
        ("scorer", scorer),
        ("reward workers", str(config.reward_model.num_workers)),
    ]
    print_tool_plan(lines, missing)


def train(config: EvaluationConfig) -> None:
    """Start the reward workers and score."""
    from verl.trainer import evaluation

    evaluation.evaluate(config)


DOOR = Door(EvaluationConfig, "evaluation", evaluation_problems, evaluation_missing_files, plan, train)

if __name__ == "__main__":
    sys.exit(DOOR.open())
