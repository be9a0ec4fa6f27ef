"""Which keys of verl have no effect here, and why: the table behind `verl.config.ignored`.

A row is "names below the prefix": the reason, which completes "<key> has no effect here: ...", or the reason and the
values that can be passed over; any other value is refused with the same reason. A key covers everything below it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

RENAMED = {
    "actor_rollout_ref.actor.self_distillation.ema_update_rate": (
        "actor_rollout_ref.actor.self_distillation.teacher_update_rate"
    ),
}
"""Old names of keys: on the command line the old name stands for the new one."""

Harmless = Callable[[Any], bool]


@dataclass(frozen=True)
class Ignored:
    """Why a key has no effect, and which of its values can be passed over."""

    reason: str
    harmless: Harmless


def only(*values: Any) -> Harmless:
    """These values, and null."""
    return lambda value: value is None or value in values


def off(name: str = "enable") -> Harmless:
    """A group whose switch `name` is off."""
    idle = (None, False, "", "disabled")
    return lambda value: (value.get(name) if isinstance(value, Mapping) else value) in idle


def unset(value: Any) -> bool:
    """Nothing in the value, or below it, is set."""
    return all(map(unset, value.values())) if isinstance(value, Mapping) else value in (None, "", [])


PROFILE = "profile with py-spy or torch's own profiler"
ONE_SEED = "the one seed is trainer.seed"
PER_GPU = "name the size for each GPU (the key that ends with _per_gpu)"
NO_CRITIC = "there is no critic"
LOSS_DECIDES = "the loss decides what it computes and keeps"
NO_SERVED = "scores come from verl.rewards or custom_reward_function, not from a served model"
OTHER_LOSS = "belongs to a loss_mode that is not offered"
NEVER_REJECTED = "tokens are weighted (rollout_is), never rejected"
NO_VISION = "there are no images or videos"
PLAIN_SAMPLING = "responses are sampled with temperature, top_p and top_k, and end with end-of-sequence"
ONE_WAY = "there is one implementation of every worker"

Row = str | tuple[str, Harmless]

TABLE: dict[str, dict[str, Row]] = {
    "": {
        "critic": (NO_CRITIC, off()),
        "global_profiler": PROFILE,
        "transfer_queue": "the driver holds the batch itself",
        "sandbox_fusion": ("code is run by this machine's own sandbox", off("url")),
        "model_engine": "the one model engine is FSDP2",
    },
    "data": {
        "return_raw_chat return_raw_input_ids return_full_prompt": "prompts are chat messages, and are kept as such",
        "dataloader_num_workers filter_overlong_prompts_workers use_shm": "data sets are read once, by the driver",
        "trust_remote_code": "what is trusted is said in actor_rollout_ref.model.trust_remote_code",
        "val_batch_size validation_shuffle": "all validation prompts are sent at once, in their order",
        "image_key video_key image_patch_size return_multi_modal_inputs": NO_VISION,
        "tokenizer": ("the tokenizer is actor_rollout_ref.model.tokenizer_path", only()),
        "gen_batch_size": ("a step draws data.train_batch_size prompts, and groups are never filtered", only()),
        "sampler datagen": ("prompts come in a seeded order, without a sampler or generator of your own", unset),
    },
    "actor_rollout_ref": {
        "nccl_timeout": "processes wait as long as torch lets them",
    },
    "actor_rollout_ref.model": {
        "use_liger use_fused_kernels fused_kernel_options tiled_mlp": "layers are those of transformers",
        "enable_activation_offload": "activations are recomputed (enable_gradient_checkpointing), not offloaded",
        "use_shm": "weights are read once, from disk",
        "override_config custom_chat_template hf_config_path external_lib": (
            "the model is taken as its folder describes it; change the folder instead",
            unset,
        ),
        "exclude_modules lora_adapter_path": ("adapters are chosen with target_modules and start from zero", unset),
    },
    "actor_rollout_ref.actor": {
        "use_torch_compile use_fused_kernels": "kernels are torch's own",
        "use_remove_padding": "said in actor_rollout_ref.model.use_remove_padding",
        "entropy_checkpointing entropy_from_logits_with_chunking": LOSS_DECIDES,
        "calculate_entropy calculate_sum_pi_squared": LOSS_DECIDES,
        "ppo_micro_batch_size": (PER_GPU, only()),
        "data_loader_seed": ONE_SEED,
        "profiler": PROFILE,
        "router_replay": ("expert routing is not replayed", off("mode")),
    },
    "actor_rollout_ref.actor.checkpoint": {
        "load_contents": "a run resumes from the whole checkpoint",
    },
    "actor_rollout_ref.actor.policy_loss": {
        "clip_cov_ratio clip_cov_lb clip_cov_ub kl_cov_ratio ppo_kl_coef": OTHER_LOSS,
    },
    "actor_rollout_ref.actor.optim": {
        "optimizer optimizer_impl": ("the optimizer is torch's AdamW", only("AdamW", "torch.optim")),
        "override_optimizer_config": ("the optimizer is AdamW with the keys beside this one", unset),
        "warmup_style": ("the schedule is lr_scheduler_type", only("constant")),
        "num_cycles": ("the cosine is half a period", only(0.5)),
        "clip_grad": ("the norm of the gradient is bounded by actor.grad_clip", only(1)),
        "total_training_steps": "counted from the steps of the run",
    },
    "actor_rollout_ref.actor.fsdp_config": {
        "optimizer_offload offload_policy": "param_offload moves weights, gradients and optimizer state together",
        "wrap_policy forward_prefetch use_orig_params": "FSDP2 shards layer by layer",
        "mixed_precision dtype": "types are model_dtype and compute_dtype",
        "seed full_determinism": "the seed is trainer.seed, determinism trainer.deterministic",
        "use_torch_compile entropy_checkpointing entropy_from_logits_with_chunking": LOSS_DECIDES,
        "forward_only strategy": ONE_WAY,
        "ulysses_sequence_parallel_size": ("said in actor_rollout_ref.actor.ulysses_sequence_parallel_size", only(1)),
    },
    "actor_rollout_ref.rollout": {
        "mode": ("engines always stream their responses", only("async", "sync")),
        "load_format layered_summon": "the trainer's weights are sent before the first response",
        "update_weights_bucket_megabytes checkpoint_engine": "the size of a bucket is weight_sync.bucket_bytes",
        "multi_stage_wake_up": "engines that sleep (free_cache_engine) always wake in two stages",
        "enable_chunked_prefill scheduling_policy cudagraph_capture_sizes disable_log_stats logprobs_mode": (
            "the engine chooses; pass it in engine_kwargs.vllm where it matters"
        ),
        "skip_tokenizer_init prometheus trace agent over_sample_rate": "the driver talks to the engines itself",
        "prompt_length response_length": "lengths are data.max_prompt_length and data.max_response_length",
        "do_sample": (PLAIN_SAMPLING, only(True)),
        "ignore_eos skip_rollout skip_dump_dir": (PLAIN_SAMPLING, only(False)),
        "repetition_penalty": (PLAIN_SAMPLING, only(1)),
        "data_parallel_size expert_parallel_size pipeline_model_parallel_size": (
            "more engines are num_engines, larger ones tensor_model_parallel_size",
            only(1),
        ),
        "log_prob_micro_batch_size": (PER_GPU, only()),
        "multi_turn": ("a conversation has one turn in this trainer", off()),
        "seed full_determinism": ONE_SEED,
        "quantization quantization_config_file": ("engine and trainer hold the same numbers", only()),
        "profiler": PROFILE,
    },
    "actor_rollout_ref.rollout.engine_kwargs": {"sglang trtllm": "engines are vllm and hf"},
    "actor_rollout_ref.ref": {
        "strategy fsdp_config use_torch_compile": "the teacher or reference is sharded like the actor",
        "ulysses_sequence_parallel_size": "as many ranks run a forward of the teacher or reference as of the actor",
        "log_prob_micro_batch_size": (PER_GPU, only()),
        "entropy_checkpointing entropy_from_logits_with_chunking router_replay": LOSS_DECIDES,
        "profiler": PROFILE,
    },
    "reward_model": {
        "use_reward_loop launch_reward_fn_async": "responses are always scored as they end",
        "reward_manager": ("scores come from verl.rewards or custom_reward_function", only("naive")),
        "reward_kwargs": ("arguments of a scorer are custom_reward_function.reward_kwargs", unset),
        "enable": (NO_SERVED, only(False)),
        "model rollout input_tokenizer strategy max_length enable_resource_pool n_gpus_per_node nnodes": NO_SERVED,
        "use_dynamic_bsz micro_batch_size micro_batch_size_per_gpu forward_max_token_len_per_gpu": NO_SERVED,
        "ulysses_sequence_parallel_size profiler": NO_SERVED,
    },
    "algorithm": {
        "lam": "there is no critic, so no generalised advantage estimate",
        "filter_groups": ("groups are never filtered", off()),
        "use_pf_ppo": ("prompts are not weighted by preference feedback", only(False)),
        "pf_ppo": "prompts are not weighted by preference feedback",
    },
    "algorithm.kl_ctrl": {
        "type": ("the coefficient is constant", only("fixed")),
        "horizon target_kl": "the coefficient is constant",
    },
    "algorithm.rollout_correction": {
        "rollout_rs rollout_token_veto_threshold": (NEVER_REJECTED, only()),
        "rollout_rs_threshold rollout_rs_threshold_lower": NEVER_REJECTED,
        "rollout_is_batch_normalize": ("weights are not normalised over the batch", only(False)),
        "use_policy_gradient": ("the loss is actor.policy_loss.loss_mode", only(False)),
        "loss_type": ("the loss is actor.policy_loss.loss_mode", only("ppo_clip")),
    },
    "trainer": {
        "critic_warmup max_critic_ckpt_to_keep": NO_CRITIC,
        "default_hdfs_dir": "checkpoints stay in the run folder",
        "remove_previous_ckpt_in_save del_local_ckpt_after_load": "checkpoints are kept by max_actor_ckpt_to_keep",
        "esi_redundant_time ray_wait_register_center_timeout": "Ray says itself when it cannot place a worker",
        "use_legacy_worker_impl use_v1 v1": ONE_WAY,
        "profile_steps profiler controller_nsight_options worker_nsight_options npu_profile": PROFILE,
    },
    "ray_kwargs": {"timeline_json_file": "times of a step are metrics (timing_s/*)"},
}


def _flatten(table: Mapping[str, Mapping[str, Row]]) -> dict[str, Ignored]:
    flat: dict[str, Ignored] = {}
    for prefix, rows in table.items():
        for names, row in rows.items():
            reason, harmless = (row, lambda value: True) if isinstance(row, str) else row
            flat |= {f"{prefix}.{name}".lstrip("."): Ignored(reason, harmless) for name in names.split()}
    return flat


IGNORED = _flatten(TABLE)
"""Dotted key -> why it has no effect."""
