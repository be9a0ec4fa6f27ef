"""The whole tree of a run, and the sections that have no file of their own: algorithm, reward, trainer."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from verl.config.actor import ActorConfig, FSDPConfig, ModelConfig, OptimConfig, RefConfig
from verl.config.data import DataConfig, template_kwargs_problems
from verl.config.node import Fraction, Node, NonNegative, Positive, Range
from verl.config.rollout import RolloutConfig
from verl.config.sandbox import SandboxConfig
from verl.config.stopping import StopOnCollapseConfig
from verl.config.survival import Seconds, TimeoutConfig
from verl.registry import ADVANTAGES, TRACKERS


@dataclass(frozen=True)
class ActorRolloutRefConfig(Node):
    """`actor_rollout_ref.*`"""

    model: ModelConfig = field(default_factory=ModelConfig)
    actor: ActorConfig = field(default_factory=ActorConfig)
    rollout: RolloutConfig = field(default_factory=RolloutConfig)
    ref: RefConfig = field(default_factory=RefConfig)
    hybrid_engine: bool = True
    """Engines share the training ranks' GPUs. False: they have their own, `rollout.nnodes` x
    `rollout.n_gpus_per_node`, and weights reach them over the network."""


@dataclass(frozen=True)
class RolloutCorrectionConfig(Node):
    """`algorithm.rollout_correction.*`: weights for the gap between the engine's and the trainer's log-probs."""

    rollout_is: Literal["token", "sequence"] | None = None
    """Level of the weight exp(old - engine); null switches it off."""
    rollout_is_threshold: Annotated[float, Range(above=0)] = 2.0
    """Upper bound of the weight."""
    bypass_mode: bool = False
    """Take the engine's log-probs as the old ones instead of recomputing them."""


@dataclass(frozen=True)
class KLControlConfig(Node):
    """`algorithm.kl_ctrl.*`"""

    kl_coef: NonNegative = 0.001
    """Weight of the KL penalty in the reward."""


@dataclass(frozen=True)
class AlgorithmConfig(Node):
    """`algorithm.*`"""

    adv_estimator: str = "grpo"
    """How scores become advantages: a name in `verl.registry.ADVANTAGES`. There is no critic, so no `gae`."""
    norm_adv_by_std_in_grpo: bool = True
    """Divide the group's centred scores by their standard deviation."""
    gamma: Annotated[float, Range(low=0, high=1)] = 1.0
    """Discount of the return (`reinforce_plus_plus`)."""
    use_kl_in_reward: bool = False
    """Subtract a KL to the frozen reference from the reward."""
    kl_penalty: Literal["kl", "k1", "abs", "mse", "k2", "low_var_kl", "k3"] = "kl"
    """Estimator of that KL."""
    kl_ctrl: KLControlConfig = field(default_factory=KLControlConfig)
    rollout_correction: RolloutCorrectionConfig = field(default_factory=RolloutCorrectionConfig)

    def problems(self) -> list[str]:
        problem = ADVANTAGES.problem(self.adv_estimator)
        if problem and self.adv_estimator == "gae":
            problem += " (gae needs a critic, and there is none here)"
        return [f"adv_estimator={self.adv_estimator}: {problem}"] if problem else []


@dataclass(frozen=True)
class CustomRewardConfig(Node):
    """`custom_reward_function.*`: a scorer of your own."""

    path: str | None = None
    """Python file."""
    name: str = "compute_score"
    """Function in it: `compute_score(data_source, solution_str, ground_truth, extra_info=None)`."""
    reward_kwargs: dict[str, Any] = field(default_factory=dict)
    """Further keyword arguments of the function."""

    def problems(self) -> list[str]:
        if self.path or (self.name == type(self).name and not self.reward_kwargs):
            return []
        return [f"path=null: names no file, but name={self.name} and reward_kwargs={self.reward_kwargs} are of one"]


@dataclass(frozen=True)
class RewardConfig(Node):
    """`reward_model.*` (verl's name; there is no served reward model here)."""

    num_workers: Positive = 1
    """Processes that score responses."""
    timeout: Annotated[float, Range(above=0)] = 300.0
    """Seconds for one response, more than the slowest honest verdict takes (a code task runs all its tests). A scorer
    that is overdue is killed, and the response counts as a scorer's error with score 0."""
    max_error_share: Fraction = 0.5
    """The run stops when more than this share of a batch's responses could not be scored; 1: never."""
    feedback_may_reveal_answer: bool = False
    """Lets scorers name the right answer in the feedback, and so to the teacher, where they can."""


@dataclass(frozen=True)
class TrainerConfig(Node):
    """`trainer.*`"""

    total_epochs: Positive = 30
    total_training_steps: Positive | None = None
    """Steps of the run; null: `total_epochs` times the steps of one epoch."""
    project_name: str = "verl"
    experiment_name: str | None = None
    """Name of the run. The presets take it from the environment variable EXPERIMENT."""
    group_name: str | None = None
    """Groups runs in wandb."""
    logger: list[str] = field(default_factory=lambda: ["console", "file"])
    """Names in `verl.registry.TRACKERS`. metrics.jsonl (`file`) is always written."""
    default_local_dir: str | None = None
    """The run folder: checkpoints, metrics, dumps, resolved config. The presets say
    checkpoints/<project_name>/<experiment_name>."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """`auto`: cuda where there is a GPU."""
    nnodes: Positive = 1
    n_gpus_per_node: Positive = 8
    """FSDP ranks on each node; without a GPU they are processes on the CPU."""
    rollout_schedule: Literal["on_policy", "one_step_off"] = "on_policy"
    """When a step's responses are written. `on_policy`: with the newest weights, before the update. `one_step_off`:
    while the step before updates, so with weights that are one step behind; the gap is mended by
    `algorithm.rollout_correction`, which must be set. A checkpoint does not hold the responses written ahead: a
    resumed run takes the same prompts and seeds, none twice and none left out, but writes its first batch with the
    weights of the checkpoint. So it is not the uninterrupted run bit for bit, as it is with `on_policy`."""
    seed: Annotated[int, Range(low=0, high=2**32 - 1)] = 1
    """Seed of data order, sampling and model."""
    val_before_train: bool = True
    val_only: bool = False
    test_freq: Annotated[int, Range(low=-1)] = -1
    """Validate every so many steps and after the last one; 0: after the last one only; -1: never."""
    save_freq: Annotated[int, Range(low=-1)] = -1
    """Save a checkpoint every so many steps; 0 or -1: never, except the last step if `save_last`."""
    save_last: bool = False
    """Save a checkpoint after the last step."""
    max_actor_ckpt_to_keep: Positive | None = None
    """Older checkpoints are deleted once a newer one is complete; null keeps all."""
    resume_mode: Literal["auto", "disable", "resume_path"] = "auto"
    """`auto`: from the newest checkpoint of the run folder, if there is one."""
    resume_from_path: str | None = None
    """A `global_step_N` folder, with `resume_mode=resume_path`."""
    rollout_data_dir: str | None = None
    """Write each step's rollouts there as <step>.jsonl."""
    validation_data_dir: str | None = None
    """Write each validation's responses there as <step>.jsonl."""
    log_val_generations: Annotated[int, Range(low=0)] = 0
    """Print so many validation responses."""
    balance_batch: bool = True
    """Spread rows over ranks by length."""
    deterministic: bool = False
    """Ask torch for deterministic kernels. On a CPU a run that was killed and resumed is then the uninterrupted one to
    the bit, with both engines, if `rollout_schedule=on_policy` and the number of ranks and threads stays the same."""
    max_nonfinite_updates: Positive | None = 3
    """An update whose loss, gradient or log-probs are nan or inf is skipped, and its batch dumped to
    <run folder>/nonfinite/step_N. After so many in a row the run stops; null: never."""
    max_rollout_log_prob_gap: Annotated[float, Range(above=0)] | None = 0.5
    """Mean absolute difference of the engine's and the trainer's log-probs, in nats, that ends the run after 2 steps
    above it; twice that for responses that are one update behind. null: never."""
    stop_on_collapse: StopOnCollapseConfig = field(default_factory=StopOnCollapseConfig)
    record: str | None = None
    """Write what each step saw (prompts, responses, rewards, teacher prompts) to this folder: step_N.parquet."""
    replay: str | None = None
    """Train on such a recording, or on a dump of a step, without engines and reward workers."""
    max_restarts: Annotated[int, Range(low=0)] = 0
    """When a worker dies or hangs, or a machine is lost: start all roles again and go on from the newest checkpoint,
    so many times at most. 0: the run ends with the message. Decisions to stop (wrong weights in an engine, too many
    failing scorers, numbers that are not finite) and mistakes in the configuration end it in any case."""
    timeout: TimeoutConfig = field(default_factory=TimeoutConfig)
    watchdog_seconds: Seconds | None = 1800.0
    """When nothing has moved for so long (no result, no response, no new phase), say where every rank stands, in the
    log and in <run folder>/logs/stall-<n>.txt; after the same time again, end the run, or restart it (`max_restarts`).
    Longer than the longest honest call of a worker; null: never."""
    dry_run: bool = False
    """Print the resolved plan and end; nothing is started."""

    def problems(self) -> list[str]:
        problems = [f"logger={self.logger}: {p}" for name in self.logger if (p := TRACKERS.problem(name))]
        if self.resume_mode == "resume_path" and not self.resume_from_path:
            problems.append("resume_from_path=null: resume_mode=resume_path needs the folder of a checkpoint")
        if self.replay and self.record:
            problems.append(f"record={self.record}: a replay has no rollouts to record; take record or replay out")
        if self.replay and self.val_only:
            problems.append("val_only=True: a replay has no engines to validate with; take val_only or replay out")
        if self.resume_from_path and self.resume_mode != "resume_path":
            problems.append(
                f"resume_from_path={self.resume_from_path}: is used with resume_mode=resume_path only, and"
                f" resume_mode is {self.resume_mode}; set it, or take the path out"
            )
        return problems


@dataclass(frozen=True)
class RayConfig(Node):
    """`ray_kwargs.*`"""

    ray_init: dict[str, Any] = field(default_factory=dict)
    """Arguments of `ray.init`, such as `num_cpus` or `address`."""


@dataclass(frozen=True)
class PPOConfig(Node):
    """The tree of `python -m verl.trainer.main_ppo`."""

    data: DataConfig = field(default_factory=DataConfig)
    actor_rollout_ref: ActorRolloutRefConfig = field(default_factory=ActorRolloutRefConfig)
    algorithm: AlgorithmConfig = field(default_factory=AlgorithmConfig)
    reward_model: RewardConfig = field(default_factory=RewardConfig)
    custom_reward_function: CustomRewardConfig = field(default_factory=CustomRewardConfig)
    sandbox: SandboxConfig = field(default_factory=SandboxConfig)
    trainer: TrainerConfig = field(default_factory=TrainerConfig)
    ray_kwargs: RayConfig = field(default_factory=RayConfig)
    max_model_len: Positive | None = None
    """Named once, referred to by other keys as ${max_model_len}."""
    vars: dict[str, Any] = field(default_factory=dict)
    """Values of your own for ${vars.name}: folders, task."""


@dataclass(frozen=True)
class SFTDataConfig(Node):
    """`data.*` of supervised fine-tuning: rows with `prompt` (text or messages) and `response` (text)."""

    train_files: list[str] | None = None
    val_files: list[str] | None = None
    prompt_key: str = "prompt"
    response_key: str = "response"
    train_batch_size: Positive = 64
    """Rows in one optimizer step."""
    micro_batch_size_per_gpu: Positive | None = None
    max_length: Positive = 1024
    """Longest prompt plus response, in tokens; longer rows are refused."""
    shuffle: bool = True
    seed: int | None = None
    apply_chat_template_kwargs: dict[str, Any] = field(default_factory=dict)

    def problems(self) -> list[str]:
        return template_kwargs_problems(self.apply_chat_template_kwargs)


@dataclass(frozen=True)
class SFTConfig(Node):
    """The tree of `python -m verl.trainer.main_sft`."""

    data: SFTDataConfig = field(default_factory=SFTDataConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    fsdp_config: FSDPConfig = field(default_factory=FSDPConfig)
    ulysses_sequence_parallel_size: Positive = 1
    """Ranks that run each forward together, every one a part of its tokens."""
    grad_clip: Annotated[float, Range(above=0)] = 1.0
    trainer: TrainerConfig = field(default_factory=TrainerConfig)
    vars: dict[str, Any] = field(default_factory=dict)
