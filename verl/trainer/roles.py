"""Starting the roles of a run: training ranks, engines, reward workers.

`ray_roles` is what runs use. `local_roles` puts the same classes into this process, for debuggers and for the test
that both compute the same. Everything starts at once; setting the models up goes on while the engines load.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import torch

from verl.config import ActorRolloutRefConfig, PPOConfig
from verl.config.model_shape import read_shape
from verl.config.placement import Placement, place, place_run
from verl.config.root import AlgorithmConfig, TrainerConfig
from verl.config.slots import engines_sleep
from verl.rollout.base import EngineSpec, engine_spec
from verl.single_controller import LocalWorkerGroup, WorkerGroup
from verl.single_controller.ray_group import RayWorkerGroup
from verl.single_controller.resources import ResourcePool, machines
from verl.single_controller.runtime import ray_session
from verl.trainer.deadlines import deadlines
from verl.trainer.plan_placement import node_lines
from verl.workers.actor import ActorWorker
from verl.workers.reward import RewardPool, RewardWorker
from verl.workers.rollout import RolloutWorker
from verl.workers.rollout_pool import RolloutPool

logger = logging.getLogger(__name__)

KEEPS_FREED_MEMORY = {
    "MALLOC_ARENA_MAX": "1",
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": str(1 << 40),
}
"""For engines on a CPU. They allocate a whole model anew in every weight sync, and by default glibc gives the old one
back to the kernel each time: mapping fresh pages took a third of the sync (`tests/benchmarks/weight_sync.py`)."""


@dataclass(frozen=True)
class ActorRole:
    """The training ranks alone: all that a replay needs."""

    actor: WorkerGroup

    @property
    def groups(self) -> tuple[WorkerGroup, ...]:
        """Of all roles."""
        return (self.actor,)


@dataclass(frozen=True)
class Roles(ActorRole):
    """The started workers of a run."""

    rollouts: RolloutPool
    rewards: RewardPool
    spec: EngineSpec
    """What the engines were started with."""

    @property
    def groups(self) -> tuple[WorkerGroup, ...]:
        return self.actor, self.rollouts.group, self.rewards.group

    def stop_rollouts(self) -> None:
        """End engines and reward workers in the middle of their work; who waits for them gets an error."""
        self.rollouts.shutdown()
        self.rewards.shutdown()


@contextmanager
def ray_roles(config: PPOConfig, num_optimizer_steps: int, log_dir: Path) -> Iterator[Roles]:
    """All roles as Ray actors; their output goes to `<log_dir>/<role>-<rank>.log`.

    Args:
        num_optimizer_steps: of the whole run, for the learning-rate schedule.
    """
    spec = run_engine_spec(config)
    has_gpus = spec.device == "cuda"
    begin = time.monotonic()
    logger.info("Starting Ray (logs of all workers: %s)", log_dir)
    with ray_session(config.ray_kwargs.ray_init):
        placement = place_run(config, machines(has_gpus), has_gpus)
        pool = ResourcePool(placement.slots_per_node, has_gpus)
        engines = engine_group(config, spec, pool, placement, log_dir)
        actor = _ray_actor(config, num_optimizer_steps, pool, placement, log_dir)
        rewards = reward_group(config, log_dir)
        groups = (actor, engines, rewards)
        logger.info(
            "Starting %d training rank(s), %d %s engine(s), %d reward worker(s) on %s",
            actor.world_size,
            engines.world_size,
            spec.rollout.name,
            rewards.world_size,
            spec.device,
        )
        for node, held in node_lines(placement):
            logger.info("  %s: %s", node, held)
        try:
            setup = actor.start("setup")
            for group in groups:
                group.ready()
                logger.info("  %s: ready after %.0f s", group.role, time.monotonic() - begin)
            setup.result()
            logger.info("  models: loaded after %.0f s", time.monotonic() - begin)
            yield Roles(actor, rollout_pool(engines, spec), RewardPool(rewards, config.reward_model), spec)
        finally:
            for group in groups:
                group.begin_shutdown()
            for group in groups:
                group.shutdown()


@contextmanager
def ray_actor(config: PPOConfig, num_optimizer_steps: int, log_dir: Path) -> Iterator[ActorRole]:
    """The training ranks of `ray_roles`, with the same threads, so that a replay adds up in the same order."""
    trainer = config.trainer
    has_gpus = choose_device(trainer.device) == "cuda"
    logger.info(
        "Starting %d training rank(s), nothing else (logs: %s)", trainer.nnodes * trainer.n_gpus_per_node, log_dir
    )
    with ray_session(config.ray_kwargs.ray_init):
        placement = place(trainer, machines=machines(has_gpus), on_gpu=has_gpus)
        pool = ResourcePool(placement.slots_per_node, has_gpus)
        actor = _ray_actor(config, num_optimizer_steps, pool, placement, log_dir)
        try:
            actor.setup()
            yield ActorRole(actor)
        finally:
            actor.shutdown()


def engine_group(
    config: PPOConfig, spec: EngineSpec, pool: ResourcePool, placement: Placement, log_dir: Path
) -> RayWorkerGroup:
    """The engines of a run as Ray actors. `pool` and `placement` are the run's."""
    return RayWorkerGroup(
        "rollout",
        RolloutWorker,
        (spec,),
        num_ranks=len(placement.rollout),
        pool=pool,
        seats=placement.rollout,
        env={} if placement.on_gpu else KEEPS_FREED_MEMORY,
        log_dir=log_dir,
        deadlines=deadlines(config.trainer.timeout),
    )


def reward_group(config: PPOConfig, log_dir: Path) -> RayWorkerGroup:
    """The reward workers of a run as Ray actors."""
    return RayWorkerGroup(
        "reward",
        RewardWorker,
        (config.custom_reward_function, config.reward_model, config.sandbox),
        num_ranks=config.reward_model.num_workers,
        env=_thread_env(os.cpu_count() or 1),
        log_dir=log_dir,
        deadlines=deadlines(config.trainer.timeout),
    )


def _ray_actor(
    config: PPOConfig, num_optimizer_steps: int, pool: ResourcePool, placement: Placement, log_dir: Path
) -> RayWorkerGroup:
    trainer = config.trainer
    writes_meanwhile = trainer.rollout_schedule == "one_step_off" and not placement.on_gpu  # on the cores of the update
    busy = [seat.node for seat in placement.actor + (placement.rollout if writes_meanwhile else ())]
    num_processes = max(busy.count(seat.node) for seat in placement.actor)
    return RayWorkerGroup(
        "actor",
        ActorWorker,
        (config.actor_rollout_ref, config.algorithm, trainer, num_optimizer_steps),
        num_ranks=len(placement.actor),
        pool=pool,
        seats=placement.actor,
        env=_thread_env(num_processes),
        log_dir=log_dir,
        deadlines=deadlines(trainer.timeout),
    )


@contextmanager
def local_roles(config: PPOConfig, num_optimizer_steps: int) -> Iterator[Roles]:
    """One worker of each role in this process, without Ray."""
    spec = run_engine_spec(config)
    actor = LocalWorkerGroup(
        "actor", ActorWorker, (config.actor_rollout_ref, config.algorithm, config.trainer, num_optimizer_steps)
    )
    engines = LocalWorkerGroup("rollout", RolloutWorker, (spec,))
    rewards = LocalWorkerGroup(
        "reward", RewardWorker, (config.custom_reward_function, config.reward_model, config.sandbox)
    )
    groups = (actor, engines, rewards)
    try:
        for group in groups:
            group.ready()
        actor.setup()
        yield Roles(actor, rollout_pool(engines, spec), RewardPool(rewards, config.reward_model), spec)
    finally:
        for group in groups:
            group.shutdown()


@contextmanager
def sft_workers(
    config: ActorRolloutRefConfig, trainer: TrainerConfig, num_optimizer_steps: int, log_dir: Path
) -> Iterator[WorkerGroup]:
    """The training ranks alone: in this process if it is one, as Ray actors otherwise."""
    arguments = (config, AlgorithmConfig(), trainer, num_optimizer_steps)
    num_ranks = trainer.nnodes * trainer.n_gpus_per_node
    if num_ranks == 1:
        group = LocalWorkerGroup("actor", ActorWorker, arguments)
        try:
            group.setup()
            yield group
        finally:
            group.shutdown()
        return
    with ray_session():
        has_gpus = choose_device(trainer.device) == "cuda"
        placement = place(trainer, machines=machines(has_gpus), on_gpu=has_gpus)
        pool = ResourcePool(placement.slots_per_node, has_gpus)
        env = _thread_env(trainer.n_gpus_per_node)
        workers = RayWorkerGroup(
            "actor",
            ActorWorker,
            arguments,
            num_ranks=num_ranks,
            pool=pool,
            seats=placement.actor,
            env=env,
            log_dir=log_dir,
            deadlines=deadlines(trainer.timeout),
        )
        try:
            workers.setup()
            yield workers
        finally:
            workers.shutdown()


def choose_device(setting: Literal["auto", "cpu", "cuda"]) -> Literal["cpu", "cuda"]:
    """The device of all roles; `auto` takes a GPU where there is one."""
    if setting == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    return setting


def rollout_pool(engines: WorkerGroup, spec: EngineSpec) -> RolloutPool:
    """The started engines as one. `spec`: what they were started with."""
    try:
        vocab_size = read_shape(spec.model_path).vocab_size
    except (OSError, ValueError):  # a name on the hub, or a configuration of another form
        vocab_size = None
    return RolloutPool(engines, spec.rollout, vocab_size)


def run_engine_spec(config: PPOConfig) -> EngineSpec:
    """What the engines of a run are started with."""
    roles, trainer = config.actor_rollout_ref, config.trainer
    spec = engine_spec(roles, config.data, choose_device(trainer.device), trainer.seed)
    return replace(spec, sleeps=engines_sleep(roles, trainer, spec.device == "cuda"))


def _thread_env(num_processes: int) -> dict[str, str]:
    """Each of several processes gets its share of the cores: more threads than cores make torch slower, not faster."""
    return {"OMP_NUM_THREADS": str(max(1, (os.cpu_count() or 1) // num_processes))}
