"""Supervised fine-tuning: `python -m verl.trainer.main_sft model.path=... data.train_files=... [key=value ...]`.

A door only: see `verl.trainer.main_ppo`; the work is done by `verl.trainer.sft_trainer`.
"""

from __future__ import annotations

import sys

from verl.config import SFTConfig
from verl.config.checks import sft_problems
from verl.config.files import sft_missing_files
from verl.trainer.door import Door
from verl.trainer.plan import print_sft_plan


def train(config: SFTConfig) -> None:
    """Start the run."""
    from verl.trainer import sft_trainer

    sft_trainer.train(config)


DOOR = Door(SFTConfig, "sft_trainer", sft_problems, sft_missing_files, print_sft_plan, train)

if __name__ == "__main__":
    sys.exit(DOOR.open())
