"""Tables from a name in the configuration to the code behind it.

A table maps names to `module:attribute`, so that a name can be checked, and a typo answered, before torch or vLLM is
imported. Adding an algorithm, an engine or a tracker is one file and one row here; a user's own code calls `register`.
"""

from __future__ import annotations

import difflib
import hashlib
import importlib
import importlib.util
import sys
import traceback
from pathlib import Path
from typing import Any

from verl.types import InputError


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

    def location(self, name: str) -> str:
        """The row of a known name, `module:attribute`."""
        return self._rows[name]

    def load(self, name: str) -> Any:
        """Import the code behind a name. Raises ValueError, with the known names, for an unknown one."""
        if problem := self.problem(name):
            raise ValueError(problem)
        module, _, attribute = self._rows[name].partition(":")
        return getattr(importlib.import_module(module), attribute)


def load_from_file(path: str, name: str, key: str) -> Any:
    """Import a user's Python file, once, and return the object `name` in it.

    Args:
        path: the file.
        name: of a function or class in it.
        key: configuration key to name in messages, such as `custom_reward_function`.

    Raises:
        InputError: no such file, the file fails while it is imported (the cause is chained), or it has no such name.
    """
    file = Path(path).expanduser().resolve()
    if not file.is_file():
        raise InputError(f"{key}.path={path}: no such file (looked for {file}).")
    digest = hashlib.sha256(str(file).encode()).hexdigest()[:12]
    module_name = f"user_code_{file.stem}_{digest}"
    if module_name not in sys.modules:
        spec = importlib.util.spec_from_file_location(module_name, file)
        if spec is None or spec.loader is None:
            raise InputError(f"{key}.path={path}: is not a Python file; its name must end in .py.")
        module = importlib.util.module_from_spec(spec)
        sys.modules[module_name] = module  # before it runs, as import does: dataclasses look their module up
        try:
            spec.loader.exec_module(module)
        except (Exception, SystemExit) as error:
            del sys.modules[module_name]
            place = in_user_code(error, file)
            raise InputError(
                f"{key}.path={path}: fails while being imported: {place}{type(error).__name__}: {error}"
            ) from error
    module = sys.modules[module_name]
    if not hasattr(module, name):
        defined = sorted(n for n, v in vars(module).items() if callable(v) and not n.startswith("_"))
        near = difflib.get_close_matches(name, defined, 1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise InputError(
            f"{key}.name={name}: {path} has no such name; it has {', '.join(sorted(defined)) or 'none'}.{hint}"
        )
    return getattr(module, name)


def in_user_code(error: BaseException, file: str | Path) -> str:
    """`line 12: `, where in a user's file an error came up; empty if it did not pass through there."""
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(file)]
    return f"line {lines[-1]}: " if lines else ""


ALGORITHMS = Table(
    "loss_mode",
    {
        "sdpo": "verl.algorithms.sdpo:SDPO",
        "vanilla": "verl.algorithms.policy_gradient:Vanilla",
        "gspo": "verl.algorithms.policy_gradient:GSPO",
        "cispo": "verl.algorithms.policy_gradient:CISPO",
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
