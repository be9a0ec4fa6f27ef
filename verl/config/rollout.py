"""`actor_rollout_ref.rollout.*`: the engines that write responses."""

from __future__ import annotations

import difflib
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from verl.config.node import Node, NonNegative, Positive, Range, convert
from verl.registry import ENGINES


@dataclass(frozen=True)
class ValidationSamplingConfig(Node):
    """`...rollout.val_kwargs.*`: how responses are drawn at validation."""

    n: Positive = 1
    temperature: NonNegative = 0.0
    top_p: Annotated[float, Range(above=0, high=1)] = 1.0
    top_k: Annotated[int, Range(low=-1)] = -1
    do_sample: bool = False
    """False is greedy, whatever the temperature."""


HF_OPTIONS = ("batch_size", "attn_implementation", "experts_implementation")


@dataclass(frozen=True)
class EngineKwargsConfig(Node):
    """`...rollout.engine_kwargs.*`: passed to the engine's constructor as they are."""

    vllm: dict[str, Any] = field(default_factory=dict)
    """Extra arguments of `vllm.LLM`."""
    hf: dict[str, Any] = field(default_factory=dict)
    """Extra arguments of the transformers engine: `batch_size` (responses written at the same time, 64), and
    `attn_implementation` and `experts_implementation` of transformers."""

    def problems(self) -> list[str]:
        problems: list[str] = []
        for name in self.hf:
            if name not in HF_OPTIONS:
                near = difflib.get_close_matches(name, HF_OPTIONS, 1)
                hint = f" Did you mean {near[0]}?" if near else ""
                problems.append(
                    f"hf.{name}={self.hf[name]}: unknown argument; known are {', '.join(HF_OPTIONS)}.{hint}"
                )
        size, wrong = convert(Positive, self.hf.get("batch_size", 1))
        return [*problems, f"hf.batch_size={size}: {wrong}"] if wrong else problems


@dataclass(frozen=True)
class WeightSyncConfig(Node):
    """`...rollout.weight_sync.*`: how new weights reach the engines, and how that is checked."""

    bucket_bytes: Positive = 32 * 1024**2
    """Most bytes gathered and sent at a time. Small: engines load one bucket while the next is on its way."""
    probe_tokens: Positive = 16
    """Length of the fixed token sequence whose log-probs engine and trainer must agree on."""
    timeout: Annotated[float, Range(above=0)] = 1800.0
    """Seconds an engine may take for one call of a sync: for a bucket, or for what is left to load after the last. One
    that takes longer is ended and replaced, as one that died."""
    max_log_prob_gap: Annotated[float, Range(above=0)] | None = None
    """Largest mean absolute difference of the probe; null: 1e-3 in fp32, 0.1 in bf16."""


@dataclass(frozen=True)
class RolloutConfig(Node):
    """`actor_rollout_ref.rollout.*`"""

    name: str = "vllm"
    """The engine: a name in `verl.registry.ENGINES`."""
    n: Positive = 1
    """Responses for each prompt (the group)."""
    temperature: Annotated[float, Range(above=0)] = 1.0
    """Also divides the logits of student and teacher in the loss."""
    top_p: Annotated[float, Range(above=0, high=1)] = 1.0
    top_k: Annotated[int, Range(low=-1)] = -1
    calculate_log_probs: bool = False
    """Keep the engine's log-probs for rollout correction and the engine-trainer gap."""
    num_engines: Positive | None = None
    """Engines in the pool; null: one for each `tensor_model_parallel_size` GPUs, one on each machine without GPU."""
    tensor_model_parallel_size: Positive = 2
    """GPUs of one engine, all on one machine (not used without a GPU; never more than there are)."""
    nnodes: Annotated[int, Range(low=0)] = 0
    """Machines on which engines have GPUs of their own, with `actor_rollout_ref.hybrid_engine=False`; they may be
    machines of the training ranks that have more GPUs than these use. 0: engines share the training ranks' GPUs."""
    n_gpus_per_node: Positive | None = None
    """GPUs of the engines on each of these machines; null: as `trainer.n_gpus_per_node`."""
    free_cache_engine: bool = True
    """Where engines share the training ranks' GPUs and wait during the update, they sleep meanwhile: their weights,
    which are sent anew, and their key-value cache leave the GPU. No effect without a GPU, with engines of their own
    GPUs, and with `trainer.rollout_schedule=one_step_off`, in which they write during the update."""
    gpu_memory_utilization: Annotated[float, Range(above=0, high=1)] = 0.5
    """Share of a GPU's memory for the engine."""
    engine_timeout: Annotated[float, Range(above=0)] | None = None
    """Seconds an engine that has requests may go without finishing a response; then it is ended and replaced, and the
    others take its requests. null: 1800, or 2 for each token that a response may have, whichever is more."""
    max_engine_restarts: Annotated[int, Range(low=0)] = 3
    """So many engines that died, hung or answered nonsense are replaced, over the whole run; the next one ends it.
    0: the first one does."""
    max_model_len: Positive | None = None
    """Longest sequence of the engine; null: prompt plus response length."""
    max_num_batched_tokens: Positive | None = None
    max_num_seqs: Positive = 1024
    """Responses written at the same time by one engine."""
    enforce_eager: bool = False
    """No graph capture (always so without a GPU)."""
    enable_prefix_caching: bool = True
    cpu_kv_cache_gib: Annotated[float, Range(above=0)] = 1.0
    """Key-value cache of the engine on a machine without GPU."""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """`auto`: float32 on a CPU, bfloat16 on a GPU."""
    log_prob_micro_batch_size_per_gpu: Positive | None = None
    """Responses in one forward when old log-probs are recomputed; null: `actor.ppo_micro_batch_size_per_gpu`."""
    log_prob_use_dynamic_bsz: bool | None = None
    """Cut these forwards by tokens instead; null: as `actor.use_dynamic_bsz`."""
    log_prob_max_token_len_per_gpu: Positive | None = None
    """Most tokens in one of them; null: twice `actor.ppo_max_token_len_per_gpu`, since no activations are kept."""
    val_kwargs: ValidationSamplingConfig = field(default_factory=ValidationSamplingConfig)
    engine_kwargs: EngineKwargsConfig = field(default_factory=EngineKwargsConfig)
    weight_sync: WeightSyncConfig = field(default_factory=WeightSyncConfig)

    def problems(self) -> list[str]:
        problem = ENGINES.problem(self.name)
        return [f"name={self.name}: {problem}"] if problem else []


__all__ = ["RolloutConfig", "ValidationSamplingConfig", "WeightSyncConfig"]
