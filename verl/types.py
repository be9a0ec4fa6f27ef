"""The words of one training step: what travels from a parquet row to a scored rollout.

Plain dataclasses of Python values: no torch, no Ray, so that they are cheap to import, to pickle and to print.
The tensors of the update live in `verl.protocol`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal, TypedDict


class InputError(ValueError):
    """Something that a user gave (a file, a model, a function) cannot be used. The message is written for people: the
    door shows it alone, without a traceback."""


class Message(TypedDict):
    """One turn of a chat, as in the parquet schema."""

    role: str
    content: str


FinishReason = Literal["stop", "length"]


@dataclass(frozen=True)
class Prompt:
    """One row of the data set, ready to be sampled from."""

    index: int
    """Row number in the data set (after filtering): the sampler's coordinate, stable over resumes."""
    messages: list[Message]
    """The chat before the chat template (`raw_prompt` in verl's words)."""
    token_ids: list[int]
    """The chat after the template, with the generation prompt."""
    data_source: str
    """Names the scorer (`verl.rewards`) and the validation metrics."""
    ground_truth: Any
    extra_info: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Sampling:
    """How responses are drawn. Temperature 0 is greedy; top_k -1 and top_p 1 leave the distribution whole."""

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = -1
    max_tokens: int = 512


@dataclass(frozen=True)
class Request:
    """One response to be written: token ids in."""

    request_id: int
    """Position in the rollout batch; unique within one call of `generate`."""
    prompt_ids: list[int]
    sampling: Sampling
    seed: int
    """Seed of this response alone, so that it does not depend on what else is in the batch."""


@dataclass(frozen=True)
class Rollout:
    """One finished response: token ids out."""

    request_id: int
    prompt_ids: list[int]
    response_ids: list[int]
    """Includes the end-of-sequence token when `finish_reason` is `stop`."""
    log_probs: list[float]
    """Of the sampled tokens, in nats, as the engine computed them (at the sampling temperature)."""
    response_mask: list[int]
    """1 for tokens written by the policy, 0 for tokens that an environment put in."""
    finish_reason: FinishReason
    weight_version: int
    """The version of the weights that wrote it."""


@dataclass(frozen=True)
class Reward:
    """What a scorer says about one response."""

    score: float
    acc: float
    feedback: str = ""
    """Text of the environment for the teacher; empty when there is nothing to say (always on success)."""
    extras: dict[str, Any] = field(default_factory=dict)
    """All other keys of the scorer's dictionary (`pred`, `incorrect_format`, ...)."""
    error: str = ""
    """Traceback, when the scorer failed and the score is a stand-in 0."""


@dataclass(frozen=True)
class Sample:
    """A prompt, one response to it and its reward: a row of the rollout batch."""

    uid: str
    """Names the group: siblings of one prompt in one step share it."""
    prompt: Prompt
    rollout: Rollout
    response_text: str
    """The response decoded without special tokens."""
    reward: Reward
