"""The forwards of the transformers engine: prompts at once, then one token of every response at a time.

A step of a small model is nearly all overhead: modules called from Python, masks made anew, caches concatenated. So
where that is safe, the step is recorded once (`torch.jit.trace`: it needs no compiler, and reads the weights where they
are, so that new ones take effect) and runs over keys and values that lie in place from the start. It is safe when

- every layer keeps all keys and values (a sliding window or a recurrent state is left to transformers' own cache),
- nothing was decided in Python from the numbers of a tensor (the tracer warns of that; here it is an error), and
- a batch of another shape then gets the same logits as from transformers' own cache.

Otherwise the model is called as it is.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
import transformers
from transformers import Cache, DynamicCache, PreTrainedModel
from transformers.cache_utils import DynamicLayer

logger = logging.getLogger(__name__)

TracedStep = Callable[..., torch.Tensor]
"""ids [B, 1], positions [B, 1], mask [B, 1, 1, S], keys and values [B, heads, S, dim] of every layer: logits [B, V].

Keys and values of the new tokens are written to the last of the S places. The mask is added to the attention scores.
"""


@dataclass
class Prefix:
    """What is known of B sequences of up to S tokens, padded on the left."""

    logits: torch.Tensor
    """[B, V] of the next token, float32."""
    cache: DynamicCache
    mask: torch.Tensor
    """[B, S] long, 0 at the padding."""
    positions: torch.Tensor
    """[B, 1] of the next token."""


class Steps(Protocol):
    """Goes on with a prefix.

    Sequences that have ended may stay for a while; nothing of them reaches the others.
    """

    def step(self, tokens: torch.Tensor) -> torch.Tensor:
        """Append a token [B] to each sequence; the logits [B, V] of the next one in float32."""
        ...

    def keep(self, rows: torch.Tensor) -> None:
        """Drop all sequences but those of these numbers [B', long]."""
        ...


def prefill(model: PreTrainedModel, prompts: Sequence[Sequence[int]]) -> Prefix:
    """Read B prompts; equal ones (the group of a step) are computed once."""
    distinct = {tuple(prompt): row for row, prompt in enumerate(dict.fromkeys(map(tuple, prompts)))}
    width = max(map(len, distinct))
    pads = [width - len(prompt) for prompt in distinct]
    ids = torch.tensor([[0] * pad + list(p) for pad, p in zip(pads, distinct, strict=True)], device=model.device)
    mask = torch.tensor([[0] * pad + [1] * (width - pad) for pad in pads], device=model.device)
    positions = (mask.cumsum(-1) - 1).clamp(min=0)
    cache = DynamicCache(config=model.config)
    logits = model(
        input_ids=ids, attention_mask=mask, position_ids=positions, past_key_values=cache, logits_to_keep=1
    ).logits[:, -1]
    next_positions = positions[:, -1:] + 1
    if len(distinct) < len(prompts):
        rows = torch.tensor([distinct[tuple(prompt)] for prompt in prompts], device=model.device)
        cache.batch_select_indices(rows)
        logits, mask, next_positions = logits[rows], mask[rows], next_positions[rows]
    return Prefix(logits.float(), cache, mask, next_positions)


class PlainSteps:
    """The model's own forward with transformers' own cache. Positions stay below `max_length`."""

    def __init__(self, model: PreTrainedModel, prefix: Prefix, max_length: int) -> None:
        self._model, self._last_position = model, max_length - 1
        self._cache, self._mask, self._positions = prefix.cache, prefix.mask, prefix.positions

    def step(self, tokens: torch.Tensor) -> torch.Tensor:
        self._mask = torch.nn.functional.pad(self._mask, (0, 1), value=1)
        output = self._model(
            input_ids=tokens[:, None],
            attention_mask=self._mask,
            position_ids=self._positions,
            past_key_values=self._cache,
            logits_to_keep=1,
        )
        self._positions = (self._positions + 1).clamp(max=self._last_position)
        return output.logits[:, -1].float()

    def keep(self, rows: torch.Tensor) -> None:
        self._cache.batch_select_indices(rows)
        self._mask, self._positions = self._mask[rows], self._positions[rows]


class TracedSteps:
    """The recorded step, over keys and values that are written in place; they grow by a half when they are full.

    Positions stay below `max_length`.
    """

    def __init__(self, step: TracedStep, prefix: Prefix, max_length: int) -> None:
        self._step, self._positions, self._last_position = step, prefix.positions, max_length - 1
        self._length = prefix.mask.shape[-1]
        self._places = keys_and_values_of(prefix.cache)
        dtype = self._places[0].dtype
        self._mask = (1 - prefix.mask)[:, None, None].to(dtype) * torch.finfo(dtype).min

    def step(self, tokens: torch.Tensor) -> torch.Tensor:
        # Recorded code runs as it is: optimizing it costs a short run more than it gains.
        with torch.jit.optimized_execution(False):  # pyright: ignore[reportPrivateImportUsage]
            logits = self._step(*self.next_inputs(tokens))
        self._positions = (self._positions + 1).clamp(max=self._last_position)
        return logits.float()

    def next_inputs(self, tokens: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Take a place for the tokens [B] and return what the step reads."""
        if self._length == self._mask.shape[-1]:
            room = max(32, self._length // 2)
            self._mask = torch.nn.functional.pad(self._mask, (0, room))
            for i, places in enumerate(self._places):  # one by one: each frees its old memory
                self._places[i] = torch.nn.functional.pad(places, (0, 0, 0, room))
        self._length += 1
        filled = (places[:, :, : self._length] for places in self._places)
        return tokens[:, None], self._positions, self._mask[..., : self._length], *filled

    def keep(self, rows: torch.Tensor) -> None:
        for i, places in enumerate(self._places):
            self._places[i] = places[rows]
        self._mask, self._positions = self._mask[rows], self._positions[rows]


class _LastPlace(DynamicLayer):
    """Keys and values whose last place is that of the one new token."""

    def __init__(self, keys: torch.Tensor, values: torch.Tensor) -> None:
        super().__init__()
        self.keys, self.values, self.is_initialized = keys, values, True

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *_: object, **__: object
    ) -> tuple[torch.Tensor, torch.Tensor]:
        assert self.keys is not None and self.values is not None
        self.keys[:, :, -1:].copy_(key_states)
        self.values[:, :, -1:].copy_(value_states)
        return self.keys, self.values


class _Step(torch.nn.Module):
    """`TracedStep` before it is traced."""

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        self.model = model

    def forward(
        self, ids: torch.Tensor, positions: torch.Tensor, mask: torch.Tensor, *places: torch.Tensor
    ) -> torch.Tensor:
        layers = [_LastPlace(*pair) for pair in zip(places[::2], places[1::2], strict=True)]
        output = self.model(
            input_ids=ids, attention_mask=mask, position_ids=positions, past_key_values=Cache(layers=[*layers])
        )
        return output.logits[:, -1]


def keys_and_values_of(cache: DynamicCache) -> list[torch.Tensor]:
    """Keys and values [B, heads, S, dim] of every layer, one after the other."""
    layers = [layer for layer in cache.layers if isinstance(layer, DynamicLayer)]
    return [tensor for layer in layers for tensor in (layer.keys, layer.values) if tensor is not None]


@torch.inference_mode()
def trace_step(model: PreTrainedModel) -> TracedStep | None:
    """Record the step of a model; None where that is not safe (see the module)."""
    prefix = prefill(model, [[1, 2, 3, 4, 5], [3, 1, 2]])
    if any(type(layer) is not DynamicLayer for layer in prefix.cache.layers):
        return None
    attention, verbosity = model.config._attn_implementation or "sdpa", transformers.logging.get_verbosity()
    try:
        transformers.logging.set_verbosity_error()  # the tracer reads every property of the model, and some log
        # The plain attention decides nothing from shapes, and is the fastest for a single query on a CPU.
        model.set_attn_implementation("eager")
        step = _Step(model)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # the successors need a compiler, or run in Python
            warnings.simplefilter("error", torch.jit.TracerWarning)  # pyright: ignore[reportPrivateImportUsage]
            inputs = TracedSteps(step, prefix, 9).next_inputs(torch.tensor([4, 1], device=model.device))
            traced: Any = torch.jit.trace(step, inputs, check_trace=False)
        _check(model, traced)
    except Exception as error:  # whatever a model does that cannot be recorded
        logger.info("The decoding step is not traced: %s", error)
        return None
    finally:
        model.set_attn_implementation(attention)
        transformers.logging.set_verbosity(verbosity)
    return traced


def _check(model: PreTrainedModel, traced: TracedStep) -> None:
    """Compare with transformers' own cache on a batch of another shape than was recorded (ValueError)."""
    prompts = [[2, 3], [4, 1, 3, 2, 1, 1, 4], [1, 4, 2]]
    plain, fast = PlainSteps(model, prefill(model, prompts), 9), TracedSteps(traced, prefill(model, prompts), 9)
    tolerance = 1e-4 if model.dtype == torch.float32 else 1e-2
    for tokens in torch.tensor([[1, 2, 3], [3, 1, 2]], device=model.device):
        expected = plain.step(tokens)
        gap = ((fast.step(tokens) - expected).norm() / expected.norm()).item()
        if not gap <= tolerance:
            raise ValueError(f"the recorded logits are off by {gap:.1e} of their norm.")
