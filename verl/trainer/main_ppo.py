"""Reinforcement learning: `python -m verl.trainer.main_ppo [--config-name PRESET] [key=value ...]`.

A door only: the command line becomes a checked `PPOConfig` (`verl.trainer.compose`), and `verl.trainer.train` does the
work. Mistakes are answered before torch, Ray or vLLM is imported.
"""

from __future__ import annotations

import sys

from verl.config import PPOConfig
from verl.config.checks import ppo_advice, ppo_problems
from verl.config.files import missing_files
from verl.trainer.door import Door
from verl.trainer.plan import print_ppo_plan


def train(config: PPOConfig) -> None:
    """Start the run."""
    from verl.trainer.train import train as run

    run(config)


DOOR = Door(PPOConfig, "ppo_trainer", ppo_problems, missing_files, print_ppo_plan, train, ppo_advice)

if __name__ == "__main__":
    sys.exit(DOOR.open())
