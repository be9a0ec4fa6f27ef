"""Rows to padded tensors: the one border between lists of token ids and a forward pass.

Rows are padded on the right and no attention mask is built. With causal attention a token never sees what comes after
it, so padding cannot change a real token; positions simply count from 0. That keeps the fast causal kernels, and makes
the result independent of how far a row is padded.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from verl.protocol import Row


@dataclass(frozen=True)
class Sequences:
    """A micro-batch as the model sees it: [prompt | response | padding]."""

    input_ids: Tensor
    """[B, S]"""
    response_positions: Tensor
    """[B, T] Where in S the hidden state stands that predicts each response token: one before the token."""
    response_ids: Tensor
    """[B, T]"""
    response_mask: Tensor
    """[B, T] float32: 1 where the policy wrote the token, 0 elsewhere and on padding."""


def pad(values: Sequence[Sequence[float]], length: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Pad lists with zeros on the right to [B, length]."""
    padded = [list(row) + [0] * (length - len(row)) for row in values]
    return torch.tensor(padded, dtype=dtype, device=device).reshape(len(values), length)


def collate(
    rows: Sequence[Row], device: torch.device, for_teacher: bool = False, num_response_tokens: int | None = None
) -> Sequences:
    """Pad rows to one micro-batch.

    Args:
        rows: the rows; none at all gives one row of one token that no loss counts, because a rank without work still
            has to take part in the collectives of the forward.
        device: where the tensors go.
        for_teacher: put the reprompted prompt before the response, instead of the row's own.
        num_response_tokens: T; the longest response when not given.

    Raises:
        ValueError: a row has an empty prompt, so that nothing predicts its first token.
    """
    prompts = [row.teacher_prompt_ids if for_teacher else row.prompt_ids for row in rows] or [[0]]
    responses = [row.response_ids for row in rows] or [[]]
    masks = [row.response_mask for row in rows] or [[]]
    for row, prompt in zip(rows, prompts, strict=False):
        if not prompt:
            which = "teacher prompt" if for_teacher else "prompt"
            raise ValueError(f"Row {row.index} has an empty {which}; a response needs at least one token before it.")
    width = max(len(prompt) + len(response) for prompt, response in zip(prompts, responses, strict=True))
    length = num_response_tokens or max(1, *(len(response) for response in responses), 1)
    starts = torch.tensor([len(prompt) - 1 for prompt in prompts])
    positions = (starts[:, None] + torch.arange(length)).clamp(max=width - 1)
    sequences = [prompt + response for prompt, response in zip(prompts, responses, strict=True)]
    return Sequences(
        input_ids=pad(sequences, width, torch.long, device),
        response_positions=positions.to(device),
        response_ids=pad(responses, length, torch.long, device),
        response_mask=pad(masks, length, torch.float32, device),
    )


def pad_per_token(values: Sequence[Sequence[float]], length: int, name: str, device: torch.device) -> Tensor | None:
    """Pad per-token values of a micro-batch to [B, length] float32; None when no row has any.

    Raises:
        ValueError: some rows have them and some do not.
    """
    if not any(values):
        return None
    if not all(values):
        raise ValueError(
            f"Some rows of a micro-batch have {name} and some have none; give them to all rows or to none."
        )
    return pad(values, length, torch.float32, device)
