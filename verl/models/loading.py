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

from verl.algorithms.head import head_map
from verl.config.actor import ModelConfig
from verl.models.lora import add_lora
from verl.models.packed_attention import SDPA, CannotPack, check_layers
from verl.models.packing import pack
from verl.models.policy_model import PolicyModel
from verl.models.remote_code import say_aloud
from verl.protocol import Row
from verl.types import InputError


@dataclass
class FullModel:
    """A model before sharding."""

    lm: PreTrainedModel
    """The modules, without storage (device `meta`)."""
    state: dict[str, Tensor]
    """All parameters and buffers by name; empty on ranks other than 0."""


def load_tokenizer(path: str, trust_remote_code: bool = False) -> Any:
    """The tokenizer of a folder or hub name. Raises InputError when it cannot be read."""
    if trust_remote_code:
        say_aloud(path)
    try:
        return AutoTokenizer.from_pretrained(path, trust_remote_code=trust_remote_code)
    except Exception as error:  # whatever stumbles over the file
        raise _unreadable(path, "tokenizer", error) from error


def load_config(path: str, trust_remote_code: bool = False) -> PretrainedConfig:
    """The model's configuration, with every dropout switched off.

    A policy gradient compares log-probs of several forwards of one policy; dropout would make them disagree.

    Raises InputError when it cannot be read.
    """
    if trust_remote_code:
        say_aloud(path)
    try:
        config = AutoConfig.from_pretrained(path, trust_remote_code=trust_remote_code)
    except Exception as error:
        raise _unreadable(path, "configuration", error) from error
    for key, value in config.to_dict().items():
        if isinstance(value, float) and ("dropout" in key or key.endswith("_pdrop")):
            setattr(config, key, 0.0)
    return config


def _unreadable(path: str, what: str, error: Exception) -> InputError:
    reason = (str(error).strip() or type(error).__name__).splitlines()[0]
    hint = ""
    if "trust_remote_code" in str(error):
        hint = " It brings Python code of its own; where you trust that, set model.trust_remote_code=true."
    return InputError(f"model.path={path}: its {what} cannot be read ({type(error).__name__}: {reason}).{hint}")


def read_weights(model: ModelConfig, path: str, dtype: torch.dtype) -> dict[str, Tensor]:
    """All parameters and buffers of a model by name, adapters included, in host memory.

    Args:
        model: adapters, and whether code of the model may run.
        path: folder or hub name; may differ from `model.path` (the teacher's).
        dtype: type of the weights.

    Raises:
        InputError: weights are missing, have other shapes than the configuration says, or are not finite.
        ValueError: the model's logits are not what the losses make of its hidden states, or rows cannot be packed.
    """
    lm = load_whole(path, dtype, model.trust_remote_code)
    _check_head(lm, path)
    if model.use_remove_padding:
        _check_packing(lm, path)
    add_lora(lm, model)
    return {name: value.detach() for name, value in [*lm.named_parameters(), *lm.named_buffers()]}


def load_whole(path: str, dtype: torch.dtype, trust_remote_code: bool = False) -> PreTrainedModel:
    """A model with all its weights, in host memory.

    Raises InputError when its files lack weights, or have them in other shapes than the configuration says.
    """
    disable_progress_bar()  # one line of the driver says what happens; a bar from a worker would cut through it
    config = load_config(path, trust_remote_code)
    loaded: Any = AutoModelForCausalLM.from_pretrained(
        path,
        config=config,
        dtype=dtype,
        attn_implementation=_capped(config, "sdpa"),
        trust_remote_code=trust_remote_code,
        use_safetensors=True,  # never a pickle
        ignore_mismatched_sizes=True,  # told below, by name
        output_loading_info=True,
    )
    lm, found = loaded
    _check_complete(found, path)
    return lm


def build_modules(model: ModelConfig, path: str, dtype: torch.dtype, attention: str) -> PreTrainedModel:
    """The modules of a model without storage (device `meta`), adapters included, ready to be sharded.

    Args:
        model: adapters, gradient checkpointing, and whether code of the model may run.
        path: folder or hub name.
        dtype: type of the weights.
        attention: a name of transformers' attention implementations.
    """
    config = load_config(path, model.trust_remote_code)
    attention = _capped(config, attention)
    with torch.device("meta"):
        lm = AutoModelForCausalLM.from_config(
            config, dtype=dtype, attn_implementation=attention, trust_remote_code=model.trust_remote_code
        )
        lm.tie_weights()
        add_lora(lm, model)
    if model.enable_gradient_checkpointing:
        lm.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    return lm.train()


def _capped(config: PretrainedConfig, attention: str) -> str:
    """transformers' "sdpa" silently leaves out a soft cap of attention scores; "eager" does not."""
    has_cap = getattr(config.get_text_config(), "attn_logit_softcapping", None) is not None
    return "eager" if has_cap and attention == "sdpa" else attention


def _check_complete(found: dict[str, Any], path: str) -> None:
    """transformers gives weights that are not in the files random values, and goes on."""
    if missing := sorted(found["missing_keys"]):
        raise InputError(
            f"model.path={path}: its files lack {len(missing)} of the weights that its config.json asks for:"
            f" {', '.join(missing[:3])}{', ...' if len(missing) > 3 else ''}. They would have been random."
        )
    if wrong := sorted(found["mismatched_keys"]):
        name, in_file, in_config = wrong[0]
        raise InputError(
            f"model.path={path}: {len(wrong)} weights have other shapes than its config.json says; {name} is"
            f" {list(in_file)} in the file and {list(in_config)} by the configuration."
        )


@torch.no_grad()
def _check_head(lm: PreTrainedModel, path: str) -> None:
    """Refuse models that do more between hidden states and logits than a matrix, a factor and a soft cap."""
    tokens = torch.tensor([[0, 1]])
    head = lm.get_output_embeddings()
    if not isinstance(head, nn.Linear):
        raise ValueError(f"model.path={path}: {type(lm).__name__} has no output head of its own; it cannot be trained.")
    scale, soft_cap = head_map(lm.config)
    expected = scale * (lm.get_decoder()(input_ids=tokens, use_cache=False).last_hidden_state @ head.weight.T)
    if soft_cap is not None:
        expected = soft_cap * torch.tanh(expected / soft_cap)
    actual = lm(input_ids=tokens, use_cache=False).logits
    if not actual.isfinite().all():
        broken = [name for name, value in lm.named_parameters() if not value.isfinite().all()]
        raise InputError(
            f"model.path={path}: its logits are not finite"
            f"{f', and neither are {len(broken)} of its weights: ' + ', '.join(broken[:3]) if broken else ''}."
        )
    tolerance = 1e-4 if actual.dtype == torch.float32 else 1e-2
    if not torch.allclose(actual, expected, rtol=tolerance, atol=tolerance):
        raise ValueError(
            f"model.path={path}: the logits of {type(lm).__name__} are not hidden states times lm_head.weight, times"
            f" {scale:g}{f', soft-capped at {soft_cap:g}' if soft_cap else ''} (the head may have a bias); such models"
            " are not supported."
        )


@torch.no_grad()
def _check_packing(lm: PreTrainedModel, path: str) -> None:
    """Refuse models whose hidden states differ between rows alone and packed rows; `lm` is left with packed attention.

    Layers that mix tokens by something else than attention (a convolution, a recurrence) give themselves away here.
    """
    rows = [[0, 1, 2, 1], [0, 2, 1, 2]]
    alone = lm.get_decoder()(input_ids=torch.tensor(rows), use_cache=False).last_hidden_state[:, :-1].flatten(0, 1)
    check_layers(lm.config.get_text_config())
    lm.set_attn_implementation(SDPA)
    together = pack([Row(row[:1], row[1:], [1, 1, 1]) for row in rows], alone.device)
    packed = PolicyModel(lm)(together, lambda hidden, _: hidden)
    tolerance = 1e-3 if alone.dtype == torch.float32 else 0.05
    if (packed - alone).norm() > tolerance * alone.norm():
        raise CannotPack(lm, f"(model.path={path}) mixes tokens by more than attention")
