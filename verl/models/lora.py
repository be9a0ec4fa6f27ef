"""LoRA adapters: where they are put, and what their weights are called and worth once merged.

Adapters are injected into the model in place, without peft's wrapper, so that the base keeps its Hugging Face names:
`<module>.weight` becomes `<module>.base_layer.weight`, beside `<module>.lora_A.default.weight` and `lora_B`.
"""

from __future__ import annotations

import difflib
import re
from typing import TYPE_CHECKING

from torch import Tensor, nn

from verl.config.actor import ModelConfig
from verl.types import InputError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

ADAPTER = "default"


def add_lora(lm: PreTrainedModel, model: ModelConfig) -> None:
    """Put adapters into `lm` and freeze everything else; nothing happens with `lora_rank=0`.

    The base keeps its names in checkpoints and weight syncs. `lora_B` starts at zero: the first policy is the base.

    Raises:
        InputError: a name in `target_modules` is of no module.
        ValueError: peft is missing, or the adapters would sit on the output head, which the losses use as a matrix.
    """
    if model.lora_rank == 0:
        return
    try:
        from peft import LoraConfig, inject_adapter_in_model
        from peft.tuners.lora import LoraLayer
    except ImportError as error:
        raise ValueError(
            f"model.lora_rank={model.lora_rank}: adapters need the package peft; install it or set lora_rank=0"
        ) from error
    _check_targets(lm, model)
    config = LoraConfig(
        r=model.lora_rank,
        lora_alpha=model.lora_alpha,  # type: ignore[arg-type]  # peft computes with any number
        target_modules=model.target_modules,
        task_type="CAUSAL_LM",
    )
    inject_adapter_in_model(config, lm, ADAPTER)
    if isinstance(lm.get_output_embeddings(), LoraLayer):
        raise ValueError(f"model.target_modules={model.target_modules}: adapters on the output head are not supported")


def _check_targets(lm: PreTrainedModel, model: ModelConfig) -> None:
    """peft passes over names of no module as long as another one is found."""
    if model.target_modules == "all-linear":
        return
    names = [name for name, module in lm.named_modules() if isinstance(module, nn.Linear)]
    leaves = sorted({name.rsplit(".", 1)[-1] for name in names})
    targets = model.target_modules
    if isinstance(targets, str):
        unknown = [] if any(re.fullmatch(targets, name) for name in names) else [targets]
    else:
        unknown = [t for t in targets if not any(name == t or name.endswith(f".{t}") for name in names)]
    for target in unknown:
        near = difflib.get_close_matches(target, ["all-linear", *leaves], 1)
        hint = f" Did you mean {near[0]}?" if near else ""
        raise InputError(
            f"model.target_modules={targets}: {target!r} is no linear module of {type(lm).__name__}; it has"
            f" {', '.join(leaves)}, or take all-linear.{hint}"
        )


def merged_name(name: str) -> str | None:
    """The Hugging Face name of a parameter; None for an adapter's own weight, which is merged into its base."""
    return None if ".lora_" in name else name.replace(".base_layer.", ".")


def merge(name: str, weight: Tensor, adapters: dict[str, Tensor], scale: float) -> Tensor:
    """W + scale * B A, for the parameter `name` as the model calls it; `weight` itself where no adapter sits on it."""
    stem, is_base, _ = name.partition(".base_layer.weight")
    if not is_base:
        return weight
    lora_a = adapters[f"{stem}.lora_A.{ADAPTER}.weight"].float()
    lora_b = adapters[f"{stem}.lora_B.{ADAPTER}.weight"].float()
    return (weight.float() + scale * (lora_b @ lora_a)).to(weight.dtype)


def lora_scale(model: ModelConfig) -> float:
    """The factor of B A; 0 without adapters."""
    return model.lora_alpha / model.lora_rank if model.lora_rank else 0.0
