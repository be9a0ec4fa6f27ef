"""A second model under accelerate's ways to spread models: put in place, read whole, loaded whole.

On one process and under DDP models are whole and there is little to do; FSDP and DeepSpeed ZeRO-3 go through what TRL,
accelerate and torch have for that.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType
from torch import Tensor, nn

from sdpo_trainer.teacher import gathered_to_write
from verl.self_distillation.teacher import ema_update_


def prepare(model: nn.Module, accelerator: Accelerator) -> nn.Module:
    """A model for evaluation, on its device and sharded as the trained one will be."""
    if accelerator.distributed_type == DistributedType.DEEPSPEED:
        from trl.models.utils import prepare_deepspeed

        return prepare_deepspeed(model, accelerator)  # pyright: ignore[reportArgumentType]
    if accelerator.distributed_type == DistributedType.FSDP:
        from trl.models.utils import prepare_fsdp

        return cast(nn.Module, prepare_fsdp(model, accelerator))
    return accelerator.prepare_model(model, evaluation_mode=True)


def is_sharded(accelerator: Accelerator) -> bool:
    """Whether weights may lie in pieces."""
    return accelerator.distributed_type in (DistributedType.FSDP, DistributedType.DEEPSPEED)


def whole_weights(model: nn.Module, accelerator: Accelerator) -> dict[str, Tensor]:
    """Parameters and persistent buffers by name, tied ones once. Sharded: a collective, whole on the main process."""
    if is_sharded(accelerator):
        return {name: t for name, t in accelerator.get_state_dict(model).items() if isinstance(t, Tensor)}
    names = {name for name, _ in model.named_parameters()} | {name for name, _ in model.named_buffers()}
    return {name: tensor for name, tensor in model.state_dict().items() if name in names}


def load_whole(model: nn.Module, weights: Mapping[str, Tensor], accelerator: Accelerator) -> None:
    """Take what `whole_weights` returned; ValueError when names or shapes differ, and nothing is changed then."""
    if accelerator.distributed_type == DistributedType.FSDP:
        from torch.distributed.checkpoint.state_dict import StateDictOptions, set_model_state_dict

        set_model_state_dict(model, dict(weights), options=StateDictOptions(full_state_dict=True))
    elif is_sharded(accelerator):
        for name, parameter in model.named_parameters():
            with gathered_to_write([parameter]) as is_writer:
                if is_writer:
                    parameter.data.copy_(weights[name.removeprefix("module.")])
    else:
        copy_into(whole_weights(model, accelerator), weights)


@torch.no_grad()
def copy_into(targets: Mapping[str, Tensor], sources: Mapping[str, Tensor]) -> None:
    """Copy tensors by name; ValueError, and nothing copied, when names or shapes differ."""
    ema_update_(targets.items(), sources.items(), 1.0)
