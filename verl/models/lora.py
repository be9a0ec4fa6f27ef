"""LoRA adapters: where they are put, and what their weights are called and worth once merged.

Adapters are injected into the model in place, without peft's wrapper, so that the base keeps its Hugging Face names:
`<module>.weight` becomes `<module>.base_layer.weight`, beside `<module>.lora_A.default.weight` and `lora_B`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

from verl.config.actor import ModelConfig

if TYPE_CHECKING:
    from transformers import PreTrainedModel

ADAPTER = "default"


def add_lora(lm: PreTrainedModel, model: ModelConfig) -> None:
    """Put adapters into `lm` and freeze everything else; nothing happens with `lora_rank=0`.

    The base keeps its names in checkpoints and weight syncs. `lora_B` starts at zero: the first policy is the base.

    Raises:
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
    config = LoraConfig(
        r=model.lora_rank,
        lora_alpha=model.lora_alpha,  # type: ignore[arg-type]  # peft computes with any number
        target_modules=model.target_modules,
        task_type="CAUSAL_LM",
    )
    inject_adapter_in_model(config, lm, ADAPTER)
    if isinstance(lm.get_output_embeddings(), LoraLayer):
        raise ValueError(f"model.target_modules={model.target_modules}: adapters on the output head are not supported")


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
