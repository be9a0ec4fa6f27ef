"""Estimate the memory of one GPU (or CPU rank) from sizes alone: no torch, no weights.

An estimate to tell what cannot fit from what may: allocator overhead, communication buffers and CUDA itself are left
out. Sizes are in bytes.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from verl.config import PPOConfig
from verl.config.checks import has_copy_for_reference, has_reference, has_teacher
from verl.config.model_shape import ModelShape, read_shape, shape_of
from verl.config.slots import engine_size, engines_sleep, is_split, rollout_block

WIDTH = {"fp32": 4, "bf16": 2, "float32": 4, "bfloat16": 2}
NOT_RECOMPUTED = 16
"""Saved activations of a layer without gradient checkpointing, in multiples of its input (a rule of thumb)."""
GPU_TILE_TOKENS, CPU_TILE_TOKENS, CPU_TILE_ELEMENTS = 8192, 128, 1 << 21
"""Logits exist for a tile of tokens at a time; see `tile_tokens` in `verl.algorithms.projection`."""
NOT_RESHARDED = "reshard_after_forward is off: all weights"


@dataclass(frozen=True)
class MemoryRow:
    """One line of the estimate."""

    name: str
    size: float
    how: str
    """Where the number comes from."""
    when: Literal["always", "update", "engine"] = "update"
    """Held all the time by the training rank, by it during an update, or by the engine."""


def find_shape(path: str | None) -> ModelShape | str:
    """The model's shape, or why it cannot be told. Of a hub name only the config.json is fetched."""
    if not path:
        return "no model is named"
    try:
        if (Path(path).expanduser() / "config.json").is_file():
            return read_shape(path)
        if path.count("/") > 1 or path.startswith((".", "/", "~")):
            return f"{path} has no config.json"
        return _hub_shape(path)
    except Exception as error:  # a plan is printed whatever the hub, the network or the file says
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        return f"the config.json of {path} cannot be read: {reason}"


def _hub_shape(name: str) -> ModelShape:
    """The shape of a hub model: from the local cache, or with one request that is not tried again."""
    from huggingface_hub import hf_hub_url, try_to_load_from_cache
    from huggingface_hub.utils import build_hf_headers, get_session

    cached = try_to_load_from_cache(name, "config.json")
    if isinstance(cached, str):
        return read_shape(Path(cached).parent)
    url = hf_hub_url(name, "config.json")
    answer = get_session().get(url, headers=build_hf_headers(), timeout=5, follow_redirects=True)
    return shape_of(answer.raise_for_status().json())


def gpu_sizes() -> list[int]:
    """Memory of each GPU of this machine, in bytes."""
    if shutil.which("nvidia-smi") is None:
        return []
    command = ["nvidia-smi", "--query-gpu=memory.total", "--format=csv,noheader,nounits"]
    try:
        lines = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True).stdout.split()
        return [int(line) * 2**20 for line in lines]
    except (OSError, subprocess.SubprocessError, ValueError):
        return []


def micro_batch(config: PPOConfig) -> tuple[int, int]:
    """Responses and response tokens (at most) in one forward and backward, of all ranks that run it together."""
    actor, n = config.actor_rollout_ref.actor, config.actor_rollout_ref.rollout.n
    ranks = config.trainer.nnodes * config.trainer.n_gpus_per_node
    together = actor.ulysses_sequence_parallel_size
    per_rank = -(-actor.ppo_mini_batch_size * n // max(1, ranks // together))
    rows = min(actor.ppo_micro_batch_size_per_gpu or per_rank, per_rank)
    tokens = rows * config.data.max_response_length
    if actor.use_dynamic_bsz:
        budget = together * actor.ppo_max_token_len_per_gpu
        rows, tokens = per_rank, min(per_rank * config.data.max_response_length, budget)
    return rows, tokens


def estimate(config: PPOConfig, shape: ModelShape, on_gpu: bool, gpu_bytes: int | None) -> list[MemoryRow]:
    """Memory of one rank, and of the engine beside it. Empty when the parameters of the model cannot be counted."""
    if shape.num_params is None:
        return []
    roles = config.actor_rollout_ref
    ranks = config.trainer.nnodes * config.trainer.n_gpus_per_node
    if 0 < roles.actor.fsdp_config.fsdp_size < ranks:
        ranks = roles.actor.fsdp_config.fsdp_size
    width = WIDTH[roles.actor.fsdp_config.model_dtype]
    compute = WIDTH[roles.actor.fsdp_config.compute_dtype or ("bf16" if on_gpu else "fp32")]
    shard, each = shape.num_params * width / ranks, f"{shape.num_params / 1e9:.3g} B parameters"
    trained = 0.0 if roles.model.lora_rank else 1.0
    rows = [MemoryRow("weights", shard, f"{each} x {width} bytes / {ranks} ranks", "always")]
    if trained:
        rows.append(MemoryRow("gradients", shard, "as many again"))
        rows.append(MemoryRow("optimizer", 2 * shard, "AdamW keeps two numbers for each weight", "always"))
    second = "teacher" if has_teacher(config) else "reference"
    if trained and (has_teacher(config) or has_reference(config)):
        rows.append(MemoryRow(second, shard, "a second copy of the weights, sharded like the first", "always"))
        if not roles.actor.fsdp_config.reshard_after_forward:
            rows.append(MemoryRow(f"gathered {second}", float(shape.num_params * compute), NOT_RESHARDED))
    if trained and has_teacher(config) and has_copy_for_reference(config):
        third = "kl_anchor_coef: a third copy of the weights, which stands still"
        rows.append(MemoryRow("frozen model", shape.num_params * compute / ranks, third, "always"))
    if not roles.actor.fsdp_config.reshard_after_forward:
        rows.append(
            MemoryRow("gathered", shape.num_params * (compute + 4 * trained), f"{NOT_RESHARDED}, and gradients")
        )
    rows += _forward_rows(config, shape, compute, on_gpu, gpu_bytes)
    return rows + _engine_rows(config, shape, on_gpu, gpu_bytes)


def _forward_rows(
    config: PPOConfig, shape: ModelShape, compute: int, on_gpu: bool, gpu_bytes: int | None
) -> list[MemoryRow]:
    """What one forward and backward adds."""
    roles, data = config.actor_rollout_ref, config.data
    num_rows, response_tokens = micro_batch(config)
    tokens = response_tokens + num_rows * data.max_prompt_length
    together = roles.actor.ulysses_sequence_parallel_size
    if roles.actor.use_dynamic_bsz:
        tokens = min(tokens, max(together * roles.actor.ppo_max_token_len_per_gpu, tokens // num_rows))
    tokens = -(-tokens // together)
    response_tokens = max(-(-response_tokens // together), min(response_tokens, data.max_response_length))
    factor = 1 if roles.model.enable_gradient_checkpointing else NOT_RECOMPUTED
    kept = "the input of each layer" if factor == 1 else f"about {factor} values for each input value"
    num_buffers = 2 if has_teacher(config) else 1
    per_token = shape.vocab_size * 4 * num_buffers
    most = GPU_TILE_TOKENS if on_gpu else max(CPU_TILE_TOKENS, CPU_TILE_ELEMENTS // shape.vocab_size)
    if gpu_bytes is not None:
        most = min(most, gpu_bytes // 4 // per_token)
    tile = min(response_tokens, most)
    head = shape.vocab_size * shape.hidden_size
    return [
        MemoryRow(
            "activations",
            float(tokens * shape.hidden_size * shape.num_layers * compute * factor),
            f"{tokens} tokens of a micro-batch x {shape.num_layers} layers x {shape.hidden_size}, {kept}",
        ),
        MemoryRow(
            "logits",
            float(tile * per_token),
            f"a tile of at most {tile} tokens x {shape.vocab_size} words in fp32"
            f"{', of student and teacher' if num_buffers == 2 else ''}",
        ),
        MemoryRow(
            "heads",
            float(head * (compute * num_buffers + 4)),
            f"{shape.vocab_size} words x {shape.hidden_size}, gathered"
            f"{' of student and teacher' if num_buffers == 2 else ''}, and the gradient in fp32",
        ),
    ]


def _engine_rows(config: PPOConfig, shape: ModelShape, on_gpu: bool, gpu_bytes: int | None) -> list[MemoryRow]:
    """The rollout engine: its weights and its key-value cache."""
    rollout, data = config.actor_rollout_ref.rollout, config.data
    width = WIDTH.get(rollout.dtype, 2 if on_gpu else 4)
    size = engine_size(rollout, rollout_block(config.actor_rollout_ref, config.trainer), on_gpu)
    weights = (shape.num_params or 0) * width / size
    per_token = shape.kv_size * shape.num_layers * width / size
    sequence = rollout.max_model_len or data.max_prompt_length + data.max_response_length
    how = f"{width} bytes each, over {size} GPU(s)" if on_gpu else "fp32"
    per_sequence = f"{per_token:,.0f} bytes a token, one sequence of {sequence} tokens {human(per_token * sequence)}"
    if not on_gpu:
        cache, share = rollout.cpu_kv_cache_gib * 2**30, "cpu_kv_cache_gib"
    elif gpu_bytes is not None:
        cache, share = rollout.gpu_memory_utilization * gpu_bytes - weights, "the rest of gpu_memory_utilization"
    else:
        sequences = min(rollout.max_num_seqs, config.data.train_batch_size * rollout.n)
        cache, share = per_token * sequence * sequences, f"if all {sequences} responses are as long as allowed"
    return [
        MemoryRow("engine weights", weights, how, "engine"),
        MemoryRow("KV cache", cache, f"{share}; {per_sequence}", "engine"),
    ]


def sums(config: PPOConfig, rows: Sequence[MemoryRow], on_gpu: bool) -> list[tuple[str, float]]:
    """What must fit into one GPU (or a CPU rank's memory) at the same time, by name."""
    size = {when: sum(row.size for row in rows if row.when == when) for when in ("always", "update", "engine")}
    trainer = size["always"] + size["update"]
    if is_split(config.actor_rollout_ref):
        return [("sum, actor's", trainer), ("sum, engine's", size["engine"])]
    if engines_sleep(config.actor_rollout_ref, config.trainer, on_gpu):
        return [("sum, update", trainer), ("sum, writing", size["always"] + size["engine"])]
    return [("sum", trainer + size["engine"])]


def human(size: float) -> str:
    """Bytes as people write them."""
    for unit in ("bytes", "KiB", "MiB"):
        if abs(size) < 1024:
            return f"{size:.0f} {unit}" if unit == "bytes" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:,.1f} GiB"
