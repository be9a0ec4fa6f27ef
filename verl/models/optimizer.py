"""AdamW, its learning-rate schedule, and the norm of a sharded gradient.

The schedule is a function of the number of optimizer steps done, so its whole state is that number: nothing to save
but an integer, and a resumed run cannot disagree with an uninterrupted one.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from verl.config.actor import OptimConfig


def make_adamw(parameters: Iterable[nn.Parameter], config: OptimConfig) -> torch.optim.AdamW:
    """AdamW over the trainable parameters, with its moments allocated (as zeros) at once.

    torch fills them in lazily; its checkpoint helpers would fill them by a step with zero gradients, after which the
    bias correction is one step ahead. Zeros and step 0 are what the first real step expects. Fused, all weights move in
    one operation; on sharded weights each of the many others costs more than its numbers.
    """
    trainable = [parameter for parameter in parameters if parameter.requires_grad]
    betas = (config.betas[0], config.betas[1])
    optimizer = torch.optim.AdamW(
        trainable, lr=config.lr, betas=betas, eps=config.eps, weight_decay=config.weight_decay, fused=True
    )
    for parameter in trainable:
        optimizer.state[parameter] = {
            "step": torch.zeros((), device=parameter.device),
            "exp_avg": torch.zeros_like(parameter),
            "exp_avg_sq": torch.zeros_like(parameter),
        }
    return optimizer


def learning_rate(config: OptimConfig, num_steps_done: int, total_steps: int) -> float:
    """The learning rate of the next optimizer step.

    Warm-up is linear and ends with the full rate: step 1 of w runs at lr / w, step w at lr. Then constant, or down to
    `min_lr_ratio` of it (linearly or along half a cosine), reached by the last step.

    Args:
        config: kind of schedule, warm-up, floor.
        num_steps_done: optimizer steps so far.
        total_steps: optimizer steps of the whole run.
    """
    warmup = config.lr_warmup_steps
    if warmup < 0:
        warmup = int(config.lr_warmup_steps_ratio * total_steps)
    if num_steps_done < warmup:
        return config.lr * (num_steps_done + 1) / warmup
    if config.lr_scheduler_type == "constant":
        return config.lr
    progress = min(1.0, (num_steps_done - warmup) / max(1, total_steps - warmup - 1))
    falling = 1 - progress if config.lr_scheduler_type == "linear" else 0.5 * (1 + math.cos(math.pi * progress))
    return config.lr * (config.min_lr_ratio + (1 - config.min_lr_ratio) * falling)


def clip_gradients(parameters: Iterable[nn.Parameter], max_norm: float, sign: Tensor | None = None) -> float:
    """Scale all gradients so that their joint L2 norm over all ranks is at most `max_norm`; returns the norm before.

    A collective. A non-finite norm comes back as such, with the gradients spoilt: the caller drops them.

    Args:
        sign: a scalar of this rank, 0 or nan; nan makes the norm of all ranks nan.
    """
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    shards = [gradient.to_local() if isinstance(gradient, DTensor) else gradient for gradient in gradients]
    squares = torch.nn.utils.get_total_norm(shards).square()
    if sign is not None:
        squares += sign.to(squares.device)
    for mesh in {gradient.device_mesh for gradient in gradients if isinstance(gradient, DTensor)}:
        # Over all ranks, also where they hold a shard several times: each must hear of a nan of any other.
        dist.all_reduce(squares.div_(mesh.size(0) if mesh.ndim == 2 else 1))
    norm = squares.sqrt()
    torch._foreach_mul_(shards, (max_norm / (norm + 1e-6)).clamp(max=1.0))  # pyright: ignore[reportPrivateImportUsage]
    return norm.item()
