"""The configuration: typed, documented dataclasses (the truth), the checks between them, and keys of verl we accept.

No Hydra, omegaconf or torch here: a mistake is answered before anything heavy is imported.
"""

from verl.config.actor import (
    ActorConfig,
    FSDPConfig,
    OptimConfig,
    PolicyLossConfig,
    RefConfig,
)
from verl.config.data import DataConfig
from verl.config.evaluation import EvaluationConfig, GenerationConfig
from verl.config.node import ConfigError, attempt, build, known_keys
from verl.config.rollout import RolloutConfig, ValidationSamplingConfig
from verl.config.root import ActorRolloutRefConfig, PPOConfig, SFTConfig
from verl.config.sandbox import SandboxConfig
from verl.config.self_distillation import SelfDistillationConfig

__all__ = [
    "ActorConfig",
    "ActorRolloutRefConfig",
    "ConfigError",
    "DataConfig",
    "EvaluationConfig",
    "FSDPConfig",
    "GenerationConfig",
    "OptimConfig",
    "PPOConfig",
    "PolicyLossConfig",
    "RefConfig",
    "RolloutConfig",
    "SFTConfig",
    "SandboxConfig",
    "SelfDistillationConfig",
    "ValidationSamplingConfig",
    "attempt",
    "build",
    "known_keys",
]
