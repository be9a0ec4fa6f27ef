"""`data.*`: files, prompt lengths, batch size, order."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from verl.config.node import Node, Positive, Range

TEMPLATE_CALL = ("conversation", "tokenize", "add_generation_prompt", "continue_final_message", "return_dict")
"""Arguments of `apply_chat_template` that are not the user's to choose."""


@dataclass(frozen=True)
class CustomClassConfig(Node):
    """A user's own class or function: a Python file and the name in it."""

    path: str | None = None
    name: str | None = None


@dataclass(frozen=True)
class DataConfig(Node):
    """`data.*`"""

    train_files: list[str] | None = None
    """Parquet files (a single path is taken as a list of one)."""
    val_files: list[str] | None = None
    """Parquet files of the validation prompts; null validates nothing."""
    prompt_key: str = "prompt"
    """Column of the chat messages."""
    reward_fn_key: str = "data_source"
    """Column that names the scorer."""
    max_prompt_length: Positive = 512
    """Longest prompt, in tokens after the chat template."""
    max_response_length: Positive = 512
    """Longest response, in tokens."""
    train_batch_size: Positive = 1024
    """Prompts in one step."""
    shuffle: bool = True
    """A new order of the training prompts in every epoch."""
    seed: int | None = None
    """Seed of the order; null takes `trainer.seed`."""
    filter_overlong_prompts: bool = False
    """Leave out prompts longer than `max_prompt_length` (their number is printed)."""
    truncation: Literal["error", "left", "right", "middle"] = "error"
    """What happens to overlong prompts that are not filtered: `error` refuses the data set, the others cut tokens."""
    train_max_samples: Annotated[int, Range(low=-1)] = -1
    """Use only the first so many training rows; -1 uses all."""
    val_max_samples: Annotated[int, Range(low=-1)] = -1
    """Use only the first so many validation rows; -1 uses all."""
    apply_chat_template_kwargs: dict[str, Any] = field(default_factory=dict)
    """Passed to the chat template, for the student's and the teacher's prompts alike."""
    custom_cls: CustomClassConfig = field(default_factory=CustomClassConfig)
    """A data set class of your own in place of `verl.dataset.ParquetDataset`."""

    def problems(self) -> list[str]:
        problems = [
            f"{key}=0: would leave no row; -1 uses all"
            for key in ("train_max_samples", "val_max_samples")
            if getattr(self, key) == 0
        ]
        return problems + template_kwargs_problems(self.apply_chat_template_kwargs)


def template_kwargs_problems(kwargs: dict[str, Any]) -> list[str]:
    """`apply_chat_template_kwargs` is for what the template itself reads, such as `enable_thinking`."""
    return [
        f"apply_chat_template_kwargs.{name}={value}: is set by every call and not a matter of the template; take it out"
        for name, value in kwargs.items()
        if name in TEMPLATE_CALL
    ]
