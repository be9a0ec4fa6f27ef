"""The size of a model from its `config.json` alone: enough to check lengths and to estimate memory.

Counts the parameters of decoder-only models built like Llama, Qwen and OLMo: gated MLP, RMS norms, grouped-query
attention. Nothing is downloaded and torch is not needed.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

BIASED_QKV = {"qwen2", "qwen2_moe"}
NORMED_HEADS = {"qwen3", "qwen3_moe"}
"""Query and key are normalised within each head."""
NORMED_QK = {"olmo2", "olmo3"}
"""Query and key are normalised over all heads at once."""
KNOWN = BIASED_QKV | NORMED_HEADS | NORMED_QK | {"llama", "mistral"}


@dataclass(frozen=True)
class ModelShape:
    """Sizes of a decoder-only model, in elements."""

    vocab_size: int
    hidden_size: int
    num_layers: int
    num_heads: int
    """Query heads of an attention layer."""
    max_positions: int | None
    """Longest sequence the model has positions for, in tokens; None: not told."""
    kv_size: int
    """Elements of key and value of one token in one layer."""
    num_params: int | None
    """None for an architecture that is not counted here."""


def read_shape(folder: str | Path) -> ModelShape:
    """The shape of a model folder on this machine.

    Raises OSError when there is no config.json, ValueError when it is not JSON or lacks the sizes.
    """
    config = json.loads((Path(folder).expanduser() / "config.json").read_text(encoding="utf-8"))
    if not isinstance(config, dict):
        raise ValueError("config.json is not an object")
    return shape_of(config)


def shape_of(config: Mapping[str, Any]) -> ModelShape:
    """The shape that a config.json describes. Raises ValueError, naming the field, when a size is missing."""
    names = ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")
    if missing := [name for name in names if not isinstance(config.get(name), int)]:
        raise ValueError(f"config.json lacks {', '.join(missing)}")
    heads = config["num_attention_heads"]
    kv_heads = config.get("num_key_value_heads") or heads
    head_dim = config.get("head_dim") or config["hidden_size"] // heads
    return ModelShape(
        vocab_size=config["vocab_size"],
        hidden_size=config["hidden_size"],
        num_layers=config["num_hidden_layers"],
        num_heads=heads,
        max_positions=config.get("max_position_embeddings"),
        kv_size=2 * kv_heads * head_dim,
        num_params=_count(config, heads * head_dim, kv_heads * head_dim, head_dim),
    )


def _count(config: Mapping[str, Any], query: int, key: int, head_dim: int) -> int | None:
    """Number of parameters; `query` and `key` are widths of the projections."""
    kind, hidden = config.get("model_type"), config["hidden_size"]
    if kind not in KNOWN:
        return None
    attention = hidden * (query + 2 * key) + query * hidden
    if kind in BIASED_QKV or config.get("attention_bias"):
        attention += query + 2 * key
    if config.get("attention_bias") and kind not in BIASED_QKV:
        attention += hidden
    if kind in NORMED_HEADS:
        attention += 2 * head_dim
    if kind in NORMED_QK:
        attention += query + key
    mlp = 3 * hidden * config["intermediate_size"]
    if experts := config.get("num_experts"):
        mlp = experts * (3 * hidden * config["moe_intermediate_size"] + hidden)
        if shared := config.get("shared_expert_intermediate_size"):
            mlp += 3 * hidden * shared + hidden
    embeddings = config["vocab_size"] * hidden * (1 if config.get("tie_word_embeddings") else 2)
    return embeddings + config["num_hidden_layers"] * (attention + mlp + 2 * hidden) + hidden
