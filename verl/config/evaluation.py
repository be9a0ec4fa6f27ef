"""The trees of the commands that train nothing: `main_generation` writes responses, `main_eval` scores them.

Only what has an effect there is a key. What the workers need besides (they are those of a training run) is made by
`as_run`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from verl.config.actor import ActorConfig, FSDPConfig, ModelConfig
from verl.config.data import DataConfig, template_kwargs_problems
from verl.config.node import Node, NonNegative, Positive, show
from verl.config.rollout import RolloutConfig
from verl.config.root import (
    ActorRolloutRefConfig,
    CustomRewardConfig,
    PPOConfig,
    RayConfig,
    RewardConfig,
    TrainerConfig,
)
from verl.config.sandbox import SandboxConfig
from verl.config.survival import TimeoutConfig

SUFFIXES = (".parquet", ".jsonl")
"""Of files of responses."""
OF_TRAINING = (
    "calculate_log_probs",
    "free_cache_engine",
    "log_prob_micro_batch_size_per_gpu",
    "log_prob_use_dynamic_bsz",
    "log_prob_max_token_len_per_gpu",
    "n_gpus_per_node",
    "nnodes",
    "val_kwargs",
)
"""Keys of the engines that only a training run looks at."""


@dataclass(frozen=True)
class ToolConfig(Node):
    """`trainer.*` of a command that trains nothing."""

    default_local_dir: str | None = None
    """Folder of the workers' logs; null: beside the output, with `.logs` at the end of its name."""
    dry_run: bool = False
    """Print what would be done and end; nothing is started."""


@dataclass(frozen=True)
class GenerationTrainerConfig(ToolConfig):
    """`trainer.*` of `main_generation`: where the engines are."""

    device: Literal["auto", "cpu", "cuda"] = "auto"
    """`auto`: cuda where there is a GPU."""
    nnodes: Positive = 1
    n_gpus_per_node: Positive = 8
    seed: int = 1
    """Of the responses. They are drawn as a training run with this seed draws those of its validation."""
    timeout: TimeoutConfig = field(default_factory=TimeoutConfig)


@dataclass(frozen=True)
class GenerationDataConfig(Node):
    """`data.*` of `main_generation`"""

    path: list[str] | None = None
    """Parquet files of prompts, with the columns of training data (a single path is taken as a list of one)."""
    output_path: str | None = None
    """The file to write, .parquet or .jsonl: the input's columns, `responses` (`rollout.n` texts) and `finish_reasons`
    (`stop`, or `length` for a response that was cut). While it grows it is `<output_path>.partial`; the same command
    goes on with that."""
    prompt_key: str = "prompt"
    """Column of the chat messages."""
    reward_fn_key: str = "data_source"
    """Column that names the scorer."""
    batch_size: Positive = 1024
    """Prompts that the engines are given at a time."""
    max_samples: int = -1
    """Use only the first so many rows; -1 uses all."""
    max_prompt_length: Positive = 512
    """Longest prompt, in tokens after the chat template."""
    max_response_length: Positive = 512
    """Longest response, in tokens."""
    filter_overlong_prompts: bool = False
    """Leave out prompts longer than `max_prompt_length` (their number is printed)."""
    truncation: Literal["error", "left", "right", "middle"] = "error"
    """What happens to overlong prompts that are not filtered: `error` refuses the file, the others cut tokens."""
    apply_chat_template_kwargs: dict[str, Any] = field(default_factory=dict)
    """Passed to the chat template."""

    def problems(self) -> list[str]:
        problems = template_kwargs_problems(self.apply_chat_template_kwargs)
        if self.output_path and Path(self.output_path).suffix not in SUFFIXES:
            problems.append(f"output_path={self.output_path}: must end in {' or '.join(SUFFIXES)}")
        if self.max_samples == 0 or self.max_samples < -1:
            problems.append(f"max_samples={self.max_samples}: must be at least 1, or -1 for all rows")
        return problems


@dataclass(frozen=True)
class GenerationRolloutConfig(RolloutConfig):
    """`actor_rollout_ref.rollout.*` of `main_generation`"""

    temperature: NonNegative = 1.0
    """0 is greedy."""

    def problems(self) -> list[str]:
        default = RolloutConfig()
        given = {name: value for name in OF_TRAINING if (value := getattr(self, name)) != getattr(default, name)}
        shown = {name: "{...}" if isinstance(value, Node) else show(value) for name, value in given.items()}
        wrong = [f"{name}={value}: has no effect in generation; take it out" for name, value in shown.items()]
        return super().problems() + wrong


@dataclass(frozen=True)
class GenerationRolesConfig(Node):
    """`actor_rollout_ref.*` of `main_generation`"""

    model: ModelConfig = field(default_factory=ModelConfig)
    rollout: GenerationRolloutConfig = field(default_factory=GenerationRolloutConfig)


@dataclass(frozen=True)
class GenerationConfig(Node):
    """The tree of `python -m verl.trainer.main_generation`."""

    data: GenerationDataConfig = field(default_factory=GenerationDataConfig)
    actor_rollout_ref: GenerationRolesConfig = field(default_factory=GenerationRolesConfig)
    trainer: GenerationTrainerConfig = field(default_factory=GenerationTrainerConfig)
    ray_kwargs: RayConfig = field(default_factory=RayConfig)
    vars: dict[str, Any] = field(default_factory=dict)

    def as_run(self) -> PPOConfig:
        """The training run whose engines and prompts these are, without its training."""
        data, trainer, roles = self.data, self.trainer, self.actor_rollout_ref
        return PPOConfig(
            data=DataConfig(
                train_files=data.path,
                prompt_key=data.prompt_key,
                reward_fn_key=data.reward_fn_key,
                max_prompt_length=data.max_prompt_length,
                max_response_length=data.max_response_length,
                filter_overlong_prompts=data.filter_overlong_prompts,
                truncation=data.truncation,
                apply_chat_template_kwargs=data.apply_chat_template_kwargs,
            ),
            actor_rollout_ref=ActorRolloutRefConfig(model=roles.model, rollout=roles.rollout),
            trainer=TrainerConfig(
                device=trainer.device,
                nnodes=trainer.nnodes,
                n_gpus_per_node=trainer.n_gpus_per_node,
                seed=trainer.seed,
                timeout=trainer.timeout,
            ),
            ray_kwargs=self.ray_kwargs,
        )


@dataclass(frozen=True)
class EvaluationDataConfig(Node):
    """`data.*` of `main_eval`"""

    path: list[str] | None = None
    """Files with responses, .parquet or .jsonl (a single path is taken as a list of one)."""
    output_path: str | None = None
    """Where the metrics go, as JSON; null: beside the first file, as <name>.metrics.json."""
    response_key: str = "responses"
    """Column of the responses: a list of texts, or a text."""
    data_source_key: str = "data_source"
    """Column that names the scorer."""
    reward_model_key: str = "reward_model"
    """Column that holds the `ground_truth`."""


@dataclass(frozen=True)
class EvaluationConfig(Node):
    """The tree of `python -m verl.trainer.main_eval`."""

    data: EvaluationDataConfig = field(default_factory=EvaluationDataConfig)
    reward_model: RewardConfig = field(default_factory=RewardConfig)
    custom_reward_function: CustomRewardConfig = field(default_factory=CustomRewardConfig)
    sandbox: SandboxConfig = field(default_factory=SandboxConfig)
    trainer: ToolConfig = field(default_factory=ToolConfig)
    ray_kwargs: RayConfig = field(default_factory=RayConfig)
    vars: dict[str, Any] = field(default_factory=dict)

    def as_run(self) -> PPOConfig:
        """The training run whose reward workers these are."""
        parts = ("reward_model", "custom_reward_function", "sandbox", "ray_kwargs")
        return PPOConfig(**{name: getattr(self, name) for name in parts})


def weights_run(run: PPOConfig, dtype: Literal["float32", "bfloat16"]) -> PPOConfig:
    """The run of the one rank that loads a model and hands it to engines: on the CPU, which engines leave free.

    Args:
        run: of the engines.
        dtype: theirs; the rank holds and sends the weights in it.
    """
    kind: Literal["fp32", "bf16"] = "fp32" if dtype == "float32" else "bf16"
    actor = ActorConfig(fsdp_config=FSDPConfig(model_dtype=kind, compute_dtype=kind))
    roles = run.actor_rollout_ref
    trainer = TrainerConfig(device="cpu", n_gpus_per_node=1, seed=run.trainer.seed, timeout=run.trainer.timeout)
    return PPOConfig(
        data=run.data,
        actor_rollout_ref=ActorRolloutRefConfig(model=roles.model, actor=actor, rollout=roles.rollout),
        trainer=trainer,
    )
