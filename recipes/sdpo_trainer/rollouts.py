"""From a scored rollout batch to what the teacher is given: groups, selection and prompts are the shared core's.

A group may lie on several ranks, and a demonstration on another rank than who is shown it. So every rank sees the texts
of all, chooses and writes for all alike, and keeps its own rows.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from sdpo_trainer.forward import position_ids
from sdpo_trainer.reprompting import scored_samples
from verl.config.self_distillation import SelfDistillationConfig
from verl.self_distillation.reprompt import Reprompts, build_reprompts
from verl.types import Message

ChatPrompt = str | list[dict[str, Any]]


@dataclass(frozen=True)
class Texts:
    """A batch as texts: one rank's rows, or all ranks' one after another."""

    prompts: list[ChatPrompt]
    completions: list[str]
    """Decoded without special tokens."""
    feedback: list[str | None]


class PromptEncoder:
    """Makes token ids of teacher prompts as TRL made them of the student's: with the chat template or without.

    Args:
        tokenizer: of the trainer.
        is_chat: whether prompts are conversations; plain strings are tokenised as they are.
        template_arguments: for `apply_chat_template`.
    """

    def __init__(self, tokenizer: Any, is_chat: bool, template_arguments: dict[str, Any]) -> None:
        self.tokenizer, self.is_chat, self.template_arguments = tokenizer, is_chat, template_arguments

    def __call__(self, messages: list[Message]) -> list[int]:
        if not self.is_chat:
            return list(self.tokenizer(text=messages[-1]["content"])["input_ids"])
        encoded = self.tokenizer.apply_chat_template(
            messages, add_generation_prompt=True, tokenize=True, return_dict=True, **self.template_arguments
        )
        return list(encoded["input_ids"])


def write_prompts(
    texts: Texts,
    rewards: Sequence[float],
    group_size: int,
    config: SelfDistillationConfig,
    encode: Callable[[list[Message]], list[int]],
    seed: int,
) -> Reprompts:
    """The teacher's prompts of the whole batch, all ranks' rows in order; siblings of a group stand together.

    Raises:
        ValueError: a prompt does not end with a user's turn, or is not text alone.
    """
    messages = [_as_messages(prompt) for prompt in texts.prompts]
    uids = [position // group_size for position in range(len(messages))]
    samples = scored_samples(messages, uids, rewards, texts.completions, texts.feedback)
    return build_reprompts(samples, config, encode, seed)


def _as_messages(prompt: ChatPrompt) -> list[Message]:
    if isinstance(prompt, str):
        return [{"role": "user", "content": prompt}]
    last = prompt[-1]
    if last["role"] != "user":
        raise ValueError(
            f"a prompt ends with a turn of {last['role']!r}; the teacher's hint goes into the last turn, so it must be"
            " the user's"
        )
    content = last["content"]
    if not isinstance(content, str):  # TRL may hand over typed parts
        if any(part.get("type") != "text" for part in content):
            kinds = sorted({part.get("type") for part in content})
            raise ValueError(f"a prompt holds parts of type {', '.join(map(str, kinds))}; SDPO works on text alone")
        content = "".join(part["text"] for part in content)
    return [*prompt[:-1], {"role": "user", "content": content}]  # pyright: ignore[reportReturnType]


def teacher_tensors(
    teacher_prompt_ids: Sequence[Sequence[int]], batch: dict[str, Any], pad_id: int, max_length: int | None
) -> dict[str, Tensor]:
    """What the teacher reads: its prompts, padded on the left, before the same completion tokens.

    Rows without a target get the student's prompt; they are not run. Completion tokens beyond the model's length are
    masked, and with that not learnt.

    Args:
        teacher_prompt_ids: of this rank's rows; empty where there is no target.
        batch: TRL's, with `prompt_ids`, `prompt_mask`, `completion_ids` and `completion_mask`.
        pad_id: fills up; masked.
        max_length: positions that the model has; None when it does not say.

    Returns:
        `teacher_input_ids`, `teacher_attention_mask` and `teacher_position_ids`, each [B, P' + T], and
        `self_distillation_mask` [B] float.
    """
    completion_ids, completion_mask = batch["completion_ids"], batch["completion_mask"]
    students = zip(batch["prompt_ids"], batch["prompt_mask"], strict=True)
    rows = [
        torch.tensor(ids, device=completion_ids.device) if ids else row_ids[row_mask > 0]
        for ids, (row_ids, row_mask) in zip(teacher_prompt_ids, students, strict=True)
    ]
    width = max(map(len, rows))
    prompts = completion_ids.new_full((len(rows), width), pad_id)
    mask = completion_mask.new_zeros((len(rows), width))
    for number, row in enumerate(rows):
        prompts[number, width - len(row) :] = row
        mask[number, width - len(row) :] = 1
    attention_mask = torch.cat([mask, completion_mask], dim=1)
    positions = position_ids(attention_mask)
    if max_length is not None:
        attention_mask = attention_mask * (positions < max_length)
        positions = positions.clamp(max=max_length - 1)
    return {
        "teacher_input_ids": torch.cat([prompts, completion_ids], dim=1),
        "teacher_attention_mask": attention_mask,
        "teacher_position_ids": positions,
        "self_distillation_mask": torch.tensor([float(bool(ids)) for ids in teacher_prompt_ids]).to(mask.device),
    }
