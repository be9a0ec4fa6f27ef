"""Engines without training, and reward workers alone: the roles of `main_generation` and `main_eval`.

Engines never read a checkpoint: weights come over the wire and are verified (`verl.trainer.publish`). So a single
training rank, which will never train, loads the model on the CPU and publishes it, as it would after an update; and it
has the weights at hand for an engine that is restarted.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from verl.config import PPOConfig
from verl.config.evaluation import weights_run
from verl.config.placement import place_run
from verl.rollout.base import EngineSpec
from verl.single_controller.ray_group import RayWorkerGroup
from verl.single_controller.resources import ResourcePool, machines
from verl.single_controller.runtime import ray_session
from verl.trainer.deadlines import deadlines
from verl.trainer.roles import ActorRole, engine_group, reward_group, rollout_pool, run_engine_spec
from verl.workers.actor import ActorWorker
from verl.workers.reward import RewardPool
from verl.workers.rollout_pool import RolloutPool

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class EngineRoles(ActorRole):
    """Engines, and in the place of the actor the rank that has the weights."""

    rollouts: RolloutPool
    spec: EngineSpec
    """What the engines were started with."""


@contextmanager
def ray_engines(run: PPOConfig, log_dir: Path) -> Iterator[EngineRoles]:
    """Engines and the rank that has their weights, as Ray actors; their output goes to `<log_dir>/<role>-<rank>.log`.

    Args:
        run: where the engines are (`trainer`), what they are (`actor_rollout_ref.rollout`), and the model.
    """
    spec = replace(run_engine_spec(run), sleeps=False)  # nobody else wants their GPUs
    on_gpu = spec.device == "cuda"
    logger.info("Starting Ray (logs of all workers: %s)", log_dir)
    with ray_session(run.ray_kwargs.ray_init):
        placement = place_run(run, machines(on_gpu), on_gpu)
        pool = ResourcePool(placement.slots_per_node, on_gpu)
        engines = engine_group(run, spec, pool, placement, log_dir)
        source = _weight_rank(weights_run(run, spec.dtype), log_dir)
        logger.info("Starting %d %s engine(s) on %s", engines.world_size, spec.rollout.name, spec.device)
        try:
            loading = source.start("setup")
            engines.ready()
            loading.result()
            yield EngineRoles(source, rollout_pool(engines, spec), spec)
        finally:
            for group in (engines, source):
                group.begin_shutdown()
            for group in (engines, source):
                group.shutdown()


def _weight_rank(run: PPOConfig, log_dir: Path) -> RayWorkerGroup:
    """A training rank on the CPU that only gives its weights away; it needs no place of its own."""
    arguments = (run.actor_rollout_ref, run.algorithm, run.trainer, 1)
    return RayWorkerGroup("weights", ActorWorker, arguments, log_dir=log_dir, deadlines=deadlines(run.trainer.timeout))


@contextmanager
def ray_rewards(run: PPOConfig, log_dir: Path) -> Iterator[RewardPool]:
    """Reward workers as Ray actors."""
    with ray_session(run.ray_kwargs.ray_init):
        rewards = reward_group(run, log_dir)
        try:
            yield RewardPool(rewards, run.reward_model)
        finally:
            rewards.shutdown()
