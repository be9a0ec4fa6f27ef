"""Reading a Hugging Face model: its configuration, its tokenizer, and its weights in one process.

Rank 0 alone reads the weights; every rank builds the modules without storage, and `verl.models.sharding` hands each its
shards. Host memory so holds one copy, however many ranks there are.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PretrainedConfig, PreTrainedModel
from transformers.utils.logging import disable_progress_bar

from verl.config.actor import ModelConfig
from verl.models.lora import add_lora


@dataclass
class FullModel:
    """A model before sharding."""

    lm: PreTrainedModel
    """The modules, without storage (device `meta`)."""
    state: dict[str, Tensor]
    """All parameters and buffers by name; empty on ranks other than 0."""


def load_tokenizer(path: str, trust_remote_code: bool = False) -> Any:
    """The tokenizer of a folder or hub name."""
    return AutoTokenizer.from_pretrained(path, trust_remote_code=trust_remote_code)


def load_config(path: str, trust_remote_code: bool = False) -> PretrainedConfig:
    """The model's configuration, with every dropout switched off.

    A policy gradient compares log-probs of several forwards of one policy; dropout would make them disagree.
    """
    config = AutoConfig.from_pretrained(path, trust_remote_code=trust_remote_code)
    for key, value in config.to_dict().items():
        if isinstance(value, float) and ("dropout" in key or key.endswith("_pdrop")):
            setattr(config, key, 0.0)
    return config


def read_weights(model: ModelConfig, path: str, dtype: torch.dtype) -> dict[str, Tensor]:
    """All parameters and buffers of a model by name, adapters included, in host memory.

    Args:
        model: adapters, and whether code of the model may run.
        path: folder or hub name; may differ from `model.path` (the teacher's).
        dtype: type of the weights.

    Raises:
        ValueError: the model's logits are not hidden states times head, so the losses here would be wrong for it.
    """
    disable_progress_bar()  # one line of the driver says what happens; a bar from a worker would cut through it
    config = load_config(path, model.trust_remote_code)
    lm = AutoModelForCausalLM.from_pretrained(
        path, config=config, dtype=dtype, attn_implementation="sdpa", trust_remote_code=model.trust_remote_code
    )
    _check_head(lm, path)
    add_lora(lm, model)
    return {name: value.detach() for name, value in [*lm.named_parameters(), *lm.named_buffers()]}


def build_modules(model: ModelConfig, path: str, dtype: torch.dtype, attention: str) -> PreTrainedModel:
    """The modules of a model without storage (device `meta`), adapters included, ready to be sharded.

    Args:
        model: adapters, gradient checkpointing, and whether code of the model may run.
        path: folder or hub name.
        dtype: type of the weights.
        attention: a name of transformers' attention implementations.
    """
    config = load_config(path, model.trust_remote_code)
    with torch.device("meta"):
        lm = AutoModelForCausalLM.from_config(
            config, dtype=dtype, attn_implementation=attention, trust_remote_code=model.trust_remote_code
        )
        lm.tie_weights()
        add_lora(lm, model)
    if model.enable_gradient_checkpointing:
        lm.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    return lm.train()


@torch.no_grad()
def _check_head(lm: PreTrainedModel, path: str) -> None:
    """Refuse models that do more between hidden states and logits than one matrix (bias, soft cap, scale)."""
    tokens = torch.tensor([[0, 1]])
    head = lm.get_output_embeddings()
    if not isinstance(head, nn.Linear):
        raise ValueError(f"model.path={path}: {type(lm).__name__} has no output head of its own; it cannot be trained.")
    expected = lm.get_decoder()(input_ids=tokens, use_cache=False).last_hidden_state @ head.weight.T
    actual = lm(input_ids=tokens, use_cache=False).logits
    tolerance = 1e-4 if actual.dtype == torch.float32 else 1e-2
    if not torch.allclose(actual, expected, rtol=tolerance, atol=tolerance):
        raise ValueError(
            f"model.path={path}: the logits of {type(lm).__name__} are not hidden states times lm_head.weight (it has a"
            " bias, a soft cap or a scale); such models are not supported."
        )
