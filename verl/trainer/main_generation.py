"""Responses to prompts: `python -m verl.trainer.main_generation data.path=... data.output_path=... [key=value ...]`.

A door only: see `verl.trainer.main_ppo`; the work is done by `verl.trainer.generation`. `main_eval` scores what this
writes.
"""

from __future__ import annotations

import sys

from verl.config import GenerationConfig
from verl.config.checks import generation_problems
from verl.config.files import generation_missing_files
from verl.trainer.door import Door
from verl.trainer.plan import count_rows, print_tool_plan


def plan(config: GenerationConfig, missing: list[str]) -> None:
    """Say what would be written."""
    data, rollout, trainer = config.data, config.actor_rollout_ref.rollout, config.trainer
    rows = count_rows(data.path or [])
    lines = [
        ("model", str(config.actor_rollout_ref.model.path)),
        ("prompts", f"{'unknown' if rows is None else rows} in {', '.join(data.path or [])}"),
        ("responses", f"{rollout.n} to each, temperature {rollout.temperature:g}, top_p {rollout.top_p:g}"),
        ("lengths", f"at most {data.max_prompt_length} + {data.max_response_length} tokens"),
        ("engines", f"{rollout.name} on {trainer.nnodes} x {trainer.n_gpus_per_node} ({trainer.device})"),
        ("output", str(data.output_path)),
    ]
    print_tool_plan(lines, missing)


def train(config: GenerationConfig) -> None:
    """Start the engines and write."""
    from verl.trainer import generation

    generation.generate(config)


DOOR = Door(GenerationConfig, "generation", generation_problems, generation_missing_files, plan, train)

if __name__ == "__main__":
    sys.exit(DOOR.open())
