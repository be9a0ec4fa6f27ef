"""Causal attention over a packed line of tokens, for any transformers model that takes its attention from outside.

The line holds the tokens of several rows, and tokens of a common beginning once (`verl.models.packing`). Two ways:

    packed_sdpa      gather queries, keys and values to rectangles of rows, run torch's attention, and take each packed
                     token's result from one of the places where it stands; of a row that mostly repeats the beginning
                     of others, only the new tokens ask
    packed_varlen    flash-attn with variable lengths: the queries of a row are its new tokens, as they stand in the
                     line; only keys and values are gathered. (With fewer queries than keys its causal mask is aligned
                     to the end, which is where the new tokens are.)

A line that is cut over several ranks is made whole first, and cut again afterwards
(`verl.models.sequence_parallel`): what runs in between is the same.

transformers builds no mask for a name it does not know, and hands keyword arguments of the model on to every layer's
attention; so the layout arrives, also when a layer is computed anew in the backward. What would change the result and
is not known here is refused, never passed over.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import AttentionInterface, PretrainedConfig

from verl.models.packing import PackLayout

SDPA = "packed_sdpa"
VARLEN = "packed_varlen"
WAY_OUT = "set actor_rollout_ref.model.use_remove_padding=false to run this model on padded rows instead"

KNOWN_LAYERS = {"full_attention", "sliding_attention"}
HARMLESS = {"position_ids", "cache_position", "position_embeddings", "output_hidden_states", "output_router_logits"}
"""Keyword arguments that models hand on and that change nothing here: positions are in queries and keys already."""


class CannotPack(ValueError):
    """A model does something between tokens that packed attention does not know."""

    def __init__(self, who: object, what: str) -> None:
        super().__init__(f"{type(who).__name__} {what}, which packed rows do not support; {WAY_OUT}.")


def check_layers(config: PretrainedConfig) -> None:
    """Raise CannotPack for layers that mix tokens otherwise than by full or sliding causal attention."""
    unknown = sorted(set(getattr(config, "layer_types", None) or ()) - KNOWN_LAYERS)
    if unknown:
        raise CannotPack(config, f"has layers of type {', '.join(unknown)}")


def packed_sdpa(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    pack_layout: PackLayout | None = None,
    **others: Any,
) -> tuple[Tensor, None]:
    """Attention of one layer over a packed line.

    Args:
        query: [1, heads, N, D], positions already in it; over several ranks of its own tokens, like what follows.
        key: [1, kv_heads, N, D].
        value: [1, kv_heads, N, D_v].
        attention_mask: None.
        scaling: factor of the scores; 1 / sqrt(D) when None.
        pack_layout: of the pack.
        others: what the layer hands on besides; `sliding_window` counts; what is not known is refused.

    Returns:
        [1, N, heads, D_v], and no attention weights.
    """
    layout, window = _checked(module, attention_mask, pack_layout, others)
    query, key, value = _whole(layout, query, key, value)
    lines = layout.padded
    num_heads, num_kv_heads = query.shape[1], key.shape[1]
    # The backward of a gather adds up what the rows of a common beginning send back.
    queries = functional.embedding(lines.queries, _by_token(query))
    both = functional.embedding(lines.keys, torch.cat([_by_token(key), _by_token(value)], dim=1))
    keys, values = both.split([num_kv_heads * key.shape[3], num_kv_heads * value.shape[3]], dim=1)
    # Torch's fused attention shares keys between heads on a GPU in half precision alone; elsewhere it would fall back
    # to one that keeps all scores.
    is_shared = num_kv_heads < num_heads
    can_share = query.is_cuda and query.dtype in (torch.float16, torch.bfloat16)
    results: list[Tensor] = []
    asked = seen = 0
    for rectangle in lines.rectangles:
        height = len(rectangle.lines)
        q = queries[asked : (asked := asked + height * rectangle.num_queries)]
        k, v = (part[seen : seen + height * rectangle.num_keys] for part in (keys, values))
        seen += height * rectangle.num_keys
        q = q.view(height, -1, num_heads, query.shape[3]).transpose(1, 2)
        k, v = (part.view(height, rectangle.num_keys, num_kv_heads, -1).transpose(1, 2) for part in (k, v))
        if is_shared and not can_share:
            k, v = (part.repeat_interleave(num_heads // num_kv_heads, dim=1) for part in (k, v))
        mask = layout.mask(rectangle, window, q.dtype)
        result = functional.scaled_dot_product_attention(
            q, k, v, attn_mask=mask, is_causal=mask is None, scale=scaling, enable_gqa=is_shared and can_share
        )
        results.append(result.transpose(1, 2).flatten(2).flatten(0, 1))
    result = functional.embedding(lines.places, torch.cat(results) if len(results) > 1 else results[0])
    return _cut(layout, result.view(1, layout.num_tokens, num_heads, -1)), None


def packed_varlen(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    pack_layout: PackLayout | None = None,
    **others: Any,
) -> tuple[Tensor, None]:
    """`packed_sdpa` by flash-attn: a GPU, half precision."""
    from flash_attn import flash_attn_varlen_func  # pyright: ignore[reportMissingImports]

    layout, window = _checked(module, attention_mask, pack_layout, others)
    query, key, value = _whole(layout, query, key, value)
    lines = layout.joined
    keys, values = (
        functional.embedding(lines.keys, _by_token(part)).view(len(lines.keys), part.shape[1], -1)
        for part in (key, value)
    )
    result = flash_attn_varlen_func(
        query[0].transpose(0, 1),
        keys,
        values,
        lines.query_starts,
        lines.key_starts,
        lines.max_queries,
        lines.max_keys,
        softmax_scale=scaling,
        causal=True,
        window_size=(-1, -1) if window is None else (window - 1, 0),
    )
    return _cut(layout, result[None]), None


def _whole(layout: PackLayout, query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """All tokens of the line, of the heads that this rank attends with."""
    return (query, key, value) if layout.split is None else layout.split.to_heads(query, key, value)


def _cut(layout: PackLayout, result: Tensor) -> Tensor:
    """This rank's tokens of all heads."""
    return result if layout.split is None else layout.split.to_tokens(result)


def _by_token(states: Tensor) -> Tensor:
    """[1, heads, N, D] to [N, heads * D]."""
    return states[0].transpose(0, 1).flatten(1)


def _checked(
    module: nn.Module, attention_mask: Tensor | None, layout: PackLayout | None, others: dict[str, Any]
) -> tuple[PackLayout, int | None]:
    """The layout and the sliding window (None: a token sees all of its row), or CannotPack."""
    if layout is None:
        raise CannotPack(module, "hands its attention no layout of the pack")
    if attention_mask is not None:
        raise CannotPack(module, "brings an attention mask of its own")
    if not getattr(module, "is_causal", True):
        raise CannotPack(module, "sees tokens that come later")
    if "sliding_window" not in others and getattr(module.config, "sliding_window", None) is not None:
        raise CannotPack(module, "has a sliding window that only its mask knows")
    window = others.pop("sliding_window", None)
    if others.pop("dropout", 0.0):
        raise CannotPack(module, "drops attention weights")
    unknown = sorted(
        name for name, value in others.items() if value is not None and value is not False and name not in HARMLESS
    )
    if unknown:
        raise CannotPack(module, f"gives its attention {', '.join(unknown)}")
    return layout, window


AttentionInterface.register(SDPA, packed_sdpa)
AttentionInterface.register(VARLEN, packed_varlen)
