"""Where a rank computes, in which number type, and with which attention: one decision each, from the configuration.

A GPU when there is one; otherwise the same program runs on the CPU with gloo, so that a laptop run is the real thing.
"""

from __future__ import annotations

import importlib.util
import os
from typing import Literal

import torch

from verl.models.packed_attention import SDPA, VARLEN

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


def choose_device(setting: Literal["auto", "cpu", "cuda"], local_rank: int) -> torch.device:
    """The device of a rank. `auto` takes a GPU where there is one; `cuda` without a GPU is a ValueError."""
    if setting == "cpu" or (setting == "auto" and not torch.cuda.is_available()):
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise ValueError("trainer.device=cuda: torch sees no GPU here; use trainer.device=auto or cpu")
    return torch.device("cuda", local_rank % torch.cuda.device_count())


def choose_compute_dtype(setting: Literal["fp32", "bf16"] | None, device: torch.device) -> torch.dtype:
    """The type of forward and backward: as configured, or bf16 on a GPU and fp32 on a CPU."""
    return DTYPES[setting or ("bf16" if device.type == "cuda" else "fp32")]


def choose_attention(device: torch.device, compute_dtype: torch.dtype, remove_padding: bool = True) -> str:
    """The attention of packed rows, or of padded ones, as transformers calls it.

    flash-attn where it is installed and can run (a GPU, not fp32), torch's own attention otherwise.
    """
    can_flash = device.type == "cuda" and compute_dtype != torch.float32
    has_flash = can_flash and importlib.util.find_spec("flash_attn") is not None
    if remove_padding:
        return VARLEN if has_flash else SDPA
    return "flash_attention_2" if has_flash else "sdpa"


def share_cores(num_local_ranks: int) -> None:
    """Give this process its share of the machine's cores, unless OMP_NUM_THREADS already says how many."""
    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(max(1, len(os.sched_getaffinity(0)) // num_local_ranks))
