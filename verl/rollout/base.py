"""What an engine is, what it is built from, and the checks and stop tokens that all engines share.

An engine starts without meaningful weights (the trainer sends them before anything is served), so it never reads a
checkpoint, and serving before the first load is an error. Both engines agree on three things:

- log-probs belong to the distribution a token was drawn from (after temperature, top-k and top-p); greedy tokens get
  the log-prob at temperature 1;
- a response that stopped ends with its end-of-sequence token;
- a request's tokens depend on its prompt, its sampling and its own seed, not on what else is in the batch (up to
  rounding: batch sizes change the order of float sums).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import torch

from verl.config import ActorRolloutRefConfig, DataConfig, RolloutConfig
from verl.types import Request, Rollout

NO_WEIGHTS = -1
"""`weight_version` of an engine that has not been given weights, or lost them in a load that failed."""

Weights = Iterable[tuple[str, torch.Tensor]]
"""Parameter names as in the Hugging Face checkpoint, full tensors; tied heads are in it under both names."""


@dataclass(frozen=True)
class EngineSpec:
    """All that an engine needs to start. Plain values: it travels to the engine's process."""

    model_path: str
    """Folder or hub name; only its configuration is read."""
    rollout: RolloutConfig
    max_model_len: int
    """Longest prompt plus response, in tokens."""
    tokenizer_path: str | None = None
    """Names the end-of-sequence token; None leaves that to the model's own configuration."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    device: Literal["cpu", "cuda"] = "cpu"
    trust_remote_code: bool = False
    seed: int = 1
    """Of the engine itself; every request has its own."""
    sleeps: bool = False
    """Whether `Engine.sleep` will be called: the engine allocates memory that can be given back."""


def engine_spec(
    config: ActorRolloutRefConfig, data: DataConfig, device: Literal["cpu", "cuda"], seed: int
) -> EngineSpec:
    """Read the specification of a run's engines out of its configuration.

    Raises ValueError when no model is named, or when `max_model_len` cannot hold a prompt and a response.
    """
    model, rollout = config.model, config.rollout
    if model.path is None:
        raise ValueError("actor_rollout_ref.model.path is not set; name the folder or hub id of the policy.")
    needed = data.max_prompt_length + data.max_response_length
    if rollout.max_model_len is not None and rollout.max_model_len < needed:
        raise ValueError(
            f"actor_rollout_ref.rollout.max_model_len={rollout.max_model_len} is shorter than data.max_prompt_length"
            f" ({data.max_prompt_length}) plus data.max_response_length ({data.max_response_length}) = {needed}."
            " Raise it, or leave it null."
        )
    automatic: Literal["float32", "bfloat16"] = "bfloat16" if device == "cuda" else "float32"
    return EngineSpec(
        model_path=model.path,
        rollout=rollout,
        max_model_len=rollout.max_model_len or needed,
        tokenizer_path=model.tokenizer_path or model.path,
        dtype=automatic if rollout.dtype == "auto" else rollout.dtype,
        device=device,
        trust_remote_code=model.trust_remote_code,
        seed=seed,
    )


class Engine(Protocol):
    """Writes responses with the weights it was last given. One caller at a time."""

    weight_version: int
    """Version of the loaded weights; `NO_WEIGHTS` before the first load."""

    def __init__(self, spec: EngineSpec) -> None: ...

    def generate(self, requests: Sequence[Request]) -> Iterator[list[Rollout]]:
        """Write a response to every request; those that end are yielded at once, not when the last one does."""
        ...

    def load_weights(self, weights: Weights, version: int) -> None:
        """Take new weights and forget everything computed with the old ones.

        Tensors are read one by one, so the whole model need not be in memory at once.
        """
        ...

    def log_probs(self, token_ids: Sequence[int]) -> list[float]:
        """log p(token[i] | tokens before it) for i = 1..n-1 at temperature 1, in nats: the probe of a weight sync."""
        ...

    def sleep(self) -> None:
        """Leave the GPU to others: weights and key-value cache are dropped. Nothing is served before the next load.

        Does nothing for an engine that cannot (on a CPU, `hf`) or is not built for it (`EngineSpec.sleeps`).
        """
        ...

    def wake(self, part: Literal["weights", "kv_cache"]) -> None:
        """Take a part of the memory again; first `weights`, which can be loaded then. Awake, it does nothing."""
        ...

    def close(self) -> None:
        """Give memory and processes back."""
        ...


def check_ready(weight_version: int) -> None:
    """Refuse to serve without weights (RuntimeError)."""
    if weight_version == NO_WEIGHTS:
        raise RuntimeError(
            "The engine has no weights: publish them once before the first request, or after a failed sync."
        )


def check_requests(requests: Sequence[Request], max_model_len: int) -> None:
    """Refuse requests that the engine could not answer in full (ValueError)."""
    for request in requests:
        prompt, wanted = len(request.prompt_ids), request.sampling.max_tokens
        if not prompt or wanted < 1:
            raise ValueError(
                f"Request {request.request_id} has {prompt} prompt tokens and max_tokens={wanted}; both must be at"
                " least 1."
            )
        if prompt + wanted > max_model_len:
            raise ValueError(
                f"Request {request.request_id}: {prompt} prompt tokens plus max_tokens={wanted} exceed the engine's"
                f" max_model_len={max_model_len}. Raise actor_rollout_ref.rollout.max_model_len, or shorten"
                " data.max_prompt_length or data.max_response_length."
            )
    if len({request.request_id for request in requests}) != len(requests):
        raise ValueError("Two requests have the same request_id; it must be unique within one call of generate.")


def check_probe(token_ids: Sequence[int], max_model_len: int) -> None:
    """Refuse a probe that is too short to score or too long for the engine (ValueError)."""
    if not 2 <= len(token_ids) < max_model_len:
        raise ValueError(
            f"A probe of {len(token_ids)} tokens cannot be scored; it needs at least 2 and fewer than"
            f" max_model_len={max_model_len}. Mend actor_rollout_ref.rollout.weight_sync.probe_tokens."
        )


def stop_token_ids(spec: EngineSpec) -> list[int]:
    """Token ids that end a response: what the model's configurations and its tokenizer call end of sequence.

    The configurations are often incomplete on their own: a chat model's tokenizer names the end of a turn, its
    generation configuration also the end of a text.
    """
    from transformers import AutoConfig, AutoTokenizer, GenerationConfig  # slow to import, and the driver needs none

    found: set[int] = set()
    try:
        declared = GenerationConfig.from_pretrained(spec.model_path).eos_token_id
    except OSError:  # the model ships none
        declared = None
    if declared is None:
        config = AutoConfig.from_pretrained(spec.model_path, trust_remote_code=spec.trust_remote_code)
        declared = getattr(config.get_text_config(), "eos_token_id", None)
    if declared is not None:
        found |= {declared} if isinstance(declared, int) else set(declared)
    if spec.tokenizer_path is not None:
        tokenizer = AutoTokenizer.from_pretrained(spec.tokenizer_path, trust_remote_code=spec.trust_remote_code)
        found |= {tokenizer.eos_token_id} - {None}
    return sorted(found)
