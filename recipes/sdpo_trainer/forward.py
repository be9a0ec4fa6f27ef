"""A transformers model whose forward ends in a function of ours, instead of in logits.

Logits of a micro-batch are the largest tensor of training, so they are never made: the function gets hidden states and
the output head, and `verl.algorithms.projection` goes over them in tiles. It runs INSIDE the forward, because wrappers
(DDP, FSDP, DeepSpeed, autocast) do their work there, and the head is whole there. Models that were patched to return
hidden states instead of logits are no exception: the projection is ours.
"""

from __future__ import annotations

import functools
import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from transformers import PreTrainedModel

from verl.algorithms.head import Head, HiddenTerm, accumulation_dtype, head_map, logits, prepared

AfterBackbone = Callable[[Tensor, Head], Any]
"""Gets hidden states [B, S, H] and the head; what it returns is what the forward returns."""


def position_ids(attention_mask: Tensor) -> Tensor:
    """Positions [B, S] that count real tokens only, so that padding on the left changes nothing."""
    return (attention_mask.cumsum(1) - 1).clamp(min=0)


def add_backbone_exit(lm: PreTrainedModel) -> None:
    """Let `lm(..., after_backbone=function)` return what the function makes of hidden states and head.

    Together with `fused_lm_head=True` (TRL's own projection) the result is the pair of TRL's output and ours, from one
    forward. Both ways positions are counted over real tokens. Any other call is what it was.
    """
    original = lm.forward

    @functools.wraps(type(lm).forward)  # `generate` reads the signature
    def forward(self: PreTrainedModel, *args: Any, after_backbone: AfterBackbone | None = None, **kwargs: Any) -> Any:
        is_fused = kwargs.get("fused_lm_head", False)
        if after_backbone is None and not is_fused:
            return original(*args, **kwargs)
        if kwargs.get("position_ids") is None and kwargs.get("attention_mask") is not None:
            kwargs["position_ids"] = position_ids(kwargs["attention_mask"])
        if after_backbone is None:
            return original(*args, **kwargs)
        if is_fused:
            with _watched(self.get_decoder()) as seen:
                output = original(*args, **kwargs)
            return output, _leave(self, seen[0], after_backbone)
        kept = {name: value for name, value in kwargs.items() if value is not None and name != "labels"}
        backbone_output = self.get_decoder()(*args, **kept | {"use_cache": False})
        return _leave(self, backbone_output.last_hidden_state, after_backbone)

    lm.forward = types.MethodType(forward, lm)


def _leave(lm: PreTrainedModel, hidden: Tensor, after_backbone: AfterBackbone) -> Any:
    weight = cast(nn.Linear, lm.get_output_embeddings()).weight
    if isinstance(weight, DTensor):
        weight = weight.full_tensor()
    with _gathered(weight):
        kind = hidden.device.type
        autocast = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else None
        if torch.float16 in (autocast, hidden.dtype, weight.dtype):
            # The loss's own gradient is made here, before a loss scaler: a token's share is too small for float16.
            hidden, weight = hidden.float(), weight.float()
        elif autocast is not None and hidden.is_cuda:  # products of ours are not autocast's
            hidden, weight = hidden.to(autocast), weight.to(autocast)
        scale, soft_cap = head_map(lm.config)
        return after_backbone(hidden.to(weight.device), Head(weight, scale, soft_cap))


@contextmanager
def _watched(backbone: nn.Module) -> Iterator[list[Tensor]]:
    """What the backbone's forwards inside the block return as hidden states."""
    seen: list[Tensor] = []
    hook = backbone.register_forward_hook(lambda _module, _args, output: seen.append(output.last_hidden_state))
    try:
        yield seen
    finally:
        hook.remove()


@contextmanager
def _gathered(*parameters: Tensor) -> Iterator[None]:
    """The parameters whole, under DeepSpeed ZeRO-3; otherwise they are."""
    if not any(hasattr(parameter, "ds_id") for parameter in parameters):
        yield
        return
    from trl.trainer.utils import maybe_gather_lm_head_ctx

    with maybe_gather_lm_head_ctx(*parameters):  # pyright: ignore[reportArgumentType]
        yield


@torch.no_grad()
def check_model(lm: PreTrainedModel) -> None:
    """Refuse a model in parts, and one whose logits are not hidden states times a matrix, a factor and a soft cap
    (ValueError)."""
    name = type(lm).__name__
    places = {str(place) for place in (getattr(lm, "hf_device_map", None) or {}).values()}
    if len(places) > 1:
        raise ValueError(
            f"{name} is spread over {', '.join(sorted(places))} (device_map=auto does that with several GPUs)."
            " SDPOTrainer needs a whole model on each GPU: start it with `accelerate launch`, or with"
            " CUDA_VISIBLE_DEVICES=0 for one GPU"
        )
    head = cast(nn.Linear, lm.get_output_embeddings())
    if getattr(lm.config, "is_encoder_decoder", False) or getattr(head, "weight", None) is None:
        raise ValueError(f"{name} is not a causal language model with an output head of its own; SDPO cannot train it")
    if getattr(head, "bias", None) is not None:
        raise ValueError(f"the output head of {name} has a bias, which the tiled loss does not know; use another model")
    was_training = lm.training
    lm.eval()
    ids = torch.tensor([[0, 1]], device=lm.device)
    hidden = lm.get_decoder()(input_ids=ids, use_cache=False).last_hidden_state[0]
    actual = lm(input_ids=ids, use_cache=False).logits[0]
    lm.train(was_training)
    if actual.shape[-1] != head.weight.shape[0]:
        return  # patched to return hidden states: there is nothing to compare with
    term = HiddenTerm(1.0, hidden.to(head.weight.dtype), prepared(Head(head.weight, *head_map(lm.config))))
    out = torch.empty(actual.shape, dtype=accumulation_dtype(hidden.dtype), device=actual.device)
    expected = logits(term, slice(None), 1.0, out)
    tolerance = 1e-4 if actual.dtype in (torch.float32, torch.float64) else 2e-2
    if not torch.allclose(actual.to(expected.dtype), expected, rtol=tolerance, atol=tolerance):
        raise ValueError(
            f"the logits of {name} are not its hidden states times lm_head.weight (with the factor and the soft cap"
            " that its configuration names), so a loss made of hidden states would be another model's"
        )
