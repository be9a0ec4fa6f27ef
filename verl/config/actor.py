"""`actor_rollout_ref.{model,actor,ref}.*`: the model, its optimizer, how it is sharded, and the loss."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Literal

from verl.config.node import Fraction, Node, NonNegative, Positive, Range
from verl.config.self_distillation import SelfDistillationConfig
from verl.registry import ALGORITHMS

LossAggMode = Literal["token-mean", "seq-mean-token-sum", "seq-mean-token-mean", "seq-mean-token-sum-norm"]


@dataclass(frozen=True)
class ModelConfig(Node):
    """`actor_rollout_ref.model.*`"""

    path: str | None = None
    """Folder or hub name of the policy's weights."""
    tokenizer_path: str | None = None
    """Folder or hub name of the tokenizer; null: same as `path`."""
    trust_remote_code: bool = False
    """Run Python code that comes with the model. Off unless asked for."""
    enable_gradient_checkpointing: bool = True
    """Recompute activations in the backward pass."""
    use_remove_padding: bool = True
    """Pack the rows of a forward into one line without padding. Off pads them, for models whose layers packed attention
    does not know."""
    lora_rank: Annotated[int, Range(low=0)] = 0
    """Rank of LoRA adapters; 0 trains all weights."""
    lora_alpha: Annotated[float, Range(above=0)] = 16.0
    target_modules: str | list[str] = "all-linear"
    """Modules that get adapters: `all-linear`, names, or a regular expression of whole names."""

    def problems(self) -> list[str]:
        if self.target_modules or not self.lora_rank:
            return []
        return [f"target_modules={self.target_modules!r}: lora_rank={self.lora_rank} needs modules; take all-linear"]


@dataclass(frozen=True)
class OptimConfig(Node):
    """`...actor.optim.*`: AdamW and its schedule."""

    lr: NonNegative = 1e-6
    betas: tuple[float, ...] = (0.9, 0.999)
    eps: Annotated[float, Range(above=0)] = 1e-8
    weight_decay: NonNegative = 0.01
    lr_warmup_steps: Annotated[int, Range(low=-1)] = -1
    """Optimizer steps of linear warm-up; -1 falls back to `lr_warmup_steps_ratio`."""
    lr_warmup_steps_ratio: Fraction = 0.0
    """Warm-up as a share of all optimizer steps."""
    lr_scheduler_type: Literal["constant", "linear", "cosine"] = "constant"
    """After the warm-up; `linear` and `cosine` end at `min_lr_ratio` of `lr`."""
    min_lr_ratio: Fraction = 0.0

    def problems(self) -> list[str]:
        if len(self.betas) == 2 and all(0 <= beta < 1 for beta in self.betas):
            return []
        return [f"betas={list(self.betas)}: must be two numbers, each at least 0 and less than 1"]


@dataclass(frozen=True)
class FSDPConfig(Node):
    """`...actor.fsdp_config.*`"""

    model_dtype: Literal["fp32", "bf16"] = "fp32"
    """Type of the stored (master) weights."""
    compute_dtype: Literal["fp32", "bf16"] | None = None
    """Type of forward and backward; null: bf16 on a GPU, fp32 on a CPU."""
    fsdp_size: Annotated[int, Range(low=-1)] = -1
    """Ranks that hold one copy of the weights in shards; -1: all. With fewer (a divisor of all ranks) every so many
    neighbours hold a copy of their own and only gradients cross between them: for slow networks between machines."""
    param_offload: bool = False
    """Keep weights, gradients and optimizer state in host memory (FSDP2's CPU offload policy)."""
    reshard_after_forward: bool = True
    """Frugal: free a layer's gathered weights after its forward, gather them again for its backward, and reduce
    gradients in every micro-batch. Off, student and teacher are gathered once for each optimizer step, and gradients
    are kept whole until its last micro-batch: faster, for the memory of two gathered models and a whole gradient."""

    def problems(self) -> list[str]:
        return [] if self.fsdp_size else ["fsdp_size=0: must be at least 1, or -1 for all ranks"]


@dataclass(frozen=True)
class PolicyLossConfig(Node):
    """`...actor.policy_loss.*`"""

    loss_mode: str = "vanilla"
    """The algorithm: a name in `verl.registry.ALGORITHMS`."""
    high_entropy_fraction: Annotated[float, Range(above=0, high=1)] | None = None
    """Policy gradient only at this share of a step's response tokens, those where the policy that wrote them was least
    certain (0.2 in arXiv 2506.01939); null: at all. Costs a forward when nothing else asks for old log-probs."""

    def problems(self) -> list[str]:
        problem = ALGORITHMS.problem(self.loss_mode)
        return [f"loss_mode={self.loss_mode}: {problem}"] if problem else []


@dataclass(frozen=True)
class CheckpointConfig(Node):
    """`...actor.checkpoint.*`"""

    save_contents: list[str] = field(default_factory=lambda: ["model", "optimizer", "extra"])
    """Parts of a checkpoint; add `hf_model` to export a Hugging Face folder with each one."""
    async_save: bool = True
    """Train on while a checkpoint is written. The step waits only until each rank has copied its weights, optimizer
    and teacher, which takes as much host memory again; off waits until the checkpoint is complete."""

    def problems(self) -> list[str]:
        needed, known = {"model", "optimizer", "extra"}, {"model", "optimizer", "extra", "hf_model"}
        contents = set(self.save_contents)
        if contents - known or needed - contents:
            return [
                f"save_contents={self.save_contents}: must hold {sorted(needed)}, because a run resumes from it,"
                " and may add hf_model"
            ]
        return []


@dataclass(frozen=True)
class ActorConfig(Node):
    """`actor_rollout_ref.actor.*`"""

    strategy: Literal["fsdp", "fsdp2"] = "fsdp2"
    """Both names mean FSDP2 (`fully_shard`); there is no FSDP1 here."""
    ppo_mini_batch_size: Positive = 256
    """Prompts (each with `rollout.n` responses) in one optimizer step."""
    ppo_micro_batch_size_per_gpu: Positive | None = None
    """Responses in one forward and backward of a rank; null takes a rank's whole mini-batch."""
    use_dynamic_bsz: bool = False
    """Cut micro-batches by `ppo_max_token_len_per_gpu` instead of by rows."""
    ppo_max_token_len_per_gpu: Positive = 16384
    """Most tokens in one forward with `use_dynamic_bsz`, as the forward runs them: shared ones count once. A single
    longer response stands alone."""
    use_prefix_grouper: bool = True
    """Run the beginning that rows of a forward have in common, a group's prompt above all, once instead of for each
    row (needs `model.use_remove_padding`)."""
    ulysses_sequence_parallel_size: Positive = 1
    """Ranks that run each forward together, of student and teacher, every one a part of its tokens: for long responses.
    Must divide the ranks and the model's attention heads. `..._per_gpu` token budgets count for each of them."""
    ppo_epochs: Positive = 1
    """Passes over each rollout batch."""
    shuffle: bool = False
    """Mix the rows of a rollout batch over its mini-batches (seeded); off keeps groups together."""
    grad_clip: Annotated[float, Range(above=0)] = 1.0
    """Greatest norm of the gradient."""
    clip_ratio: NonNegative = 0.2
    clip_ratio_low: NonNegative | None = None
    """Lower clip of the ratio; null: `clip_ratio`."""
    clip_ratio_high: NonNegative | None = None
    """Upper clip ("clip-higher"); null: `clip_ratio`."""
    clip_ratio_c: Annotated[float, Range(above=1)] = 3.0
    """Dual clip: bound of the loss for negative advantages."""
    loss_agg_mode: LossAggMode = "token-mean"
    """How per-token losses become one number; divisors are counted over the whole mini-batch."""
    loss_scale_factor: Annotated[float, Range(above=0)] | None = None
    """Divisor of `seq-mean-token-sum-norm`; null: the longest response of the mini-batch."""
    entropy_coeff: float = 0.0
    """Weight of the entropy bonus."""
    use_kl_loss: bool = False
    """Add a KL to the frozen reference."""
    kl_loss_coef: NonNegative = 0.001
    kl_loss_type: Literal["kl", "k1", "abs", "mse", "k2", "low_var_kl", "k3"] = "low_var_kl"
    """Estimator of that KL from the sampled tokens (kl = k1, mse = k2, low_var_kl = k3)."""
    policy_loss: PolicyLossConfig = field(default_factory=PolicyLossConfig)
    self_distillation: SelfDistillationConfig = field(default_factory=SelfDistillationConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    fsdp_config: FSDPConfig = field(default_factory=FSDPConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)


@dataclass(frozen=True)
class RefModelConfig(Node):
    """`actor_rollout_ref.ref.model.*`"""

    path: str | None = None
    """Initial teacher (SDPO) or reference (KL); null: the policy's own initial weights."""


@dataclass(frozen=True)
class RefConfig(Node):
    """`actor_rollout_ref.ref.*`: the teacher of SDPO, or the frozen reference of a KL term."""

    model: RefModelConfig = field(default_factory=RefModelConfig)
    log_prob_micro_batch_size_per_gpu: Positive | None = None
    """Responses in one forward of the teacher or reference; null: `actor.ppo_micro_batch_size_per_gpu`."""
    log_prob_use_dynamic_bsz: bool | None = None
    """Cut these forwards by tokens instead; null: as `actor.use_dynamic_bsz`."""
    log_prob_max_token_len_per_gpu: Positive | None = None
    """Most tokens in one of them; null: twice `actor.ppo_max_token_len_per_gpu`, since no activations are kept."""
