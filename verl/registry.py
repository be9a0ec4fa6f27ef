"""Tables from a name in the configuration to the code behind it.

A table maps names to `module:attribute`, so that a name can be checked, and a typo answered, before torch or vLLM is
imported. Adding an algorithm, an engine or a tracker is one file and one row here; a user's own code calls `register`.
"""

from __future__ import annotations

import difflib
import importlib
from typing import Any


class Table:
    """Names and where their code is."""

    def __init__(self, what: str, rows: dict[str, str]) -> None:
        self.what = what
        self._rows = dict(rows)

    @property
    def names(self) -> list[str]:
        return sorted(self._rows)

    def register(self, name: str, path: str) -> None:
        """Add a row; `path` is `module:attribute`. A name that stands for other code already is a ValueError."""
        if self._rows.get(name, path) != path:
            raise ValueError(f"{self.what} {name!r} is registered already, as {self._rows[name]}; choose another name.")
        self._rows[name] = path

    def problem(self, name: str) -> str | None:
        """What is wrong with a name, for people; None when it is known."""
        if name in self._rows:
            return None
        near = difflib.get_close_matches(name, self._rows, 1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        return f"{name!r} is not a known {self.what}; known are {', '.join(self.names)}.{hint}"

    def load(self, name: str) -> Any:
        """Import the code behind a name. Raises ValueError, with the known names, for an unknown one."""
        if problem := self.problem(name):
            raise ValueError(problem)
        module, _, attribute = self._rows[name].partition(":")
        return getattr(importlib.import_module(module), attribute)


ALGORITHMS = Table(
    "loss_mode",
    {
        "sdpo": "verl.algorithms.sdpo:SDPO",
        "vanilla": "verl.algorithms.policy_gradient:Vanilla",
        "gspo": "verl.algorithms.policy_gradient:GSPO",
        "sft": "verl.algorithms.sft:SFT",
    },
)

ADVANTAGES = Table(
    "adv_estimator",
    {
        "grpo": "verl.algorithms.advantages:grpo",
        "rloo": "verl.algorithms.advantages:rloo",
        "reinforce_plus_plus": "verl.algorithms.advantages:reinforce_plus_plus",
    },
)

ENGINES = Table(
    "rollout engine",
    {
        "vllm": "verl.rollout.vllm_engine:VllmEngine",
        "hf": "verl.rollout.hf_engine:HfEngine",
    },
)

TRACKERS = Table(
    "logger",
    {
        "console": "verl.tracking.console:ConsoleTracker",
        "file": "verl.tracking.file:FileTracker",
        "tensorboard": "verl.tracking.tensorboard:TensorboardTracker",
        "wandb": "verl.tracking.wandb:WandbTracker",
    },
)
