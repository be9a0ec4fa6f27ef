"""Whole tensors under Hugging Face names, gathered one by one: what engines load and what a model folder holds."""

from __future__ import annotations

from collections.abc import Iterator
from typing import cast

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor
from transformers import AutoModelForCausalLM

from verl.algorithms.head import Head
from verl.config.actor import ModelConfig
from verl.models.loading import load_config
from verl.models.lora import lora_scale, merge, merged_name
from verl.models.policy_model import PolicyModel


def full_tensor(tensor: Tensor, device: torch.device) -> Tensor:
    """The whole of a sharded tensor (a collective); a plain tensor as it is. `device`: where this rank computes."""
    tensor = tensor.detach()
    return cast(DTensor, tensor.to(device)).full_tensor() if isinstance(tensor, DTensor) else tensor


def full_head(model: PolicyModel, device: torch.device, dtype: torch.dtype) -> Head:
    """The output head with its matrix [V, H] as one plain tensor, without gradient. A collective."""
    return model.as_head(full_tensor(model.head.weight, device).to(dtype))


@torch.no_grad()
def full_weights(
    model: PolicyModel, config: ModelConfig, device: torch.device, dtype: torch.dtype
) -> Iterator[tuple[str, Tensor]]:
    """Yield (Hugging Face name, whole tensor) for every weight; adapters are merged into their base.

    A collective: every rank must exhaust it. The embedding, usually the largest of all, comes last, so that who loads
    what comes can begin early. With tied embeddings `lm_head.weight` comes too, because some engines keep a copy of it
    that an update of the embedding alone would leave stale.
    """
    parameters = {name.removeprefix("lm."): value for name, value in model.named_parameters(remove_duplicate=False)}
    scale = lora_scale(config)
    embedding = model.lm.get_input_embeddings().weight
    for name, parameter in sorted(parameters.items(), key=lambda item: item[1] is embedding):
        if (target := merged_name(name)) is None:
            continue
        stem = name.removesuffix(".base_layer.weight") + ".lora_"
        adapters = {key: full_tensor(value, device) for key, value in parameters.items() if key.startswith(stem)}
        yield target, merge(name, full_tensor(parameter, device), adapters, scale).to(dtype)


def export_huggingface(
    model: PolicyModel, config: ModelConfig, device: torch.device, dtype: torch.dtype, folder: str, is_writer: bool
) -> None:
    """Write the weights as a folder that `from_pretrained` loads. A collective; only the writing rank keeps them.

    The tokenizer is not written here: it is the caller's to save beside the weights.
    """
    state = {name: value.cpu() for name, value in full_weights(model, config, device, dtype) if is_writer}
    if not is_writer:
        return
    assert config.path is not None
    hf_config = load_config(config.path, config.trust_remote_code)
    with torch.device("meta"):
        shell = AutoModelForCausalLM.from_config(hf_config, trust_remote_code=config.trust_remote_code, dtype=dtype)
    shell.save_pretrained(folder, state_dict=state)
