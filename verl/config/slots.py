"""How many GPUs each role asks for, on how many machines, and whether engines fit into theirs.

A slot is a GPU, or on machines without GPUs a place for processes. The training ranks (the teacher is in them) have
`trainer.nnodes` x `trainer.n_gpus_per_node` slots. Engines stand on the same ones (colocated, the default: they take
turns) or on `rollout.nnodes` x `rollout.n_gpus_per_node` slots of their own (split, `hybrid_engine=False`). An engine
never spans machines.
"""

from __future__ import annotations

from dataclasses import dataclass

from verl.config.rollout import RolloutConfig
from verl.config.root import ActorRolloutRefConfig, TrainerConfig

NOT_PARALLEL = {"hf"}
"""Engines that compute on one GPU, whatever `tensor_model_parallel_size` says."""


@dataclass(frozen=True)
class Block:
    """So many slots on each of so many different machines."""

    num_nodes: int
    slots_per_node: int
    what_for: str
    keys: str
    """The configuration that asks for it."""

    def text(self, unit: str) -> str:
        """In words; `unit` is what a slot is."""
        return f"{self.num_nodes} machine(s) with {self.slots_per_node} {unit} each for {self.what_for} ({self.keys})"

    @property
    def num_slots(self) -> int:
        """Of all machines."""
        return self.num_nodes * self.slots_per_node


def is_split(roles: ActorRolloutRefConfig) -> bool:
    """Whether engines have GPUs of their own."""
    return roles.rollout.nnodes > 0


def engines_sleep(roles: ActorRolloutRefConfig, trainer: TrainerConfig, on_gpu: bool) -> bool:
    """Whether engines give their GPUs' memory back during the update: where it is the trainer's turn."""
    takes_turns = on_gpu and not is_split(roles) and trainer.rollout_schedule == "on_policy"
    return takes_turns and roles.rollout.free_cache_engine


def actor_block(trainer: TrainerConfig) -> Block:
    """What the training ranks ask for."""
    keys = f"trainer.nnodes={trainer.nnodes} x trainer.n_gpus_per_node={trainer.n_gpus_per_node}"
    return Block(trainer.nnodes, trainer.n_gpus_per_node, "training ranks", keys)


def rollout_block(roles: ActorRolloutRefConfig, trainer: TrainerConfig) -> Block:
    """Where engines are: on slots of their own, or on the training ranks'."""
    if not is_split(roles):
        return actor_block(trainer)
    rollout = roles.rollout
    per_node = rollout.n_gpus_per_node or trainer.n_gpus_per_node
    prefix = "actor_rollout_ref.rollout"
    keys = f"{prefix}.nnodes={rollout.nnodes} x {prefix}.n_gpus_per_node={per_node}"
    return Block(rollout.nnodes, per_node, "rollout engines", keys)


def engine_size(rollout: RolloutConfig, block: Block, on_gpu: bool) -> int:
    """Slots of one engine: `tensor_model_parallel_size` GPUs, never more than there are; without GPUs one."""
    if not on_gpu or rollout.name in NOT_PARALLEL:
        return 1
    return min(rollout.tensor_model_parallel_size, block.num_slots)


def num_engines(roles: ActorRolloutRefConfig, block: Block, on_gpu: bool) -> int:
    """As configured, else as many as the GPUs hold; without GPUs one for each machine, or for each place of a split."""
    if roles.rollout.num_engines:
        return roles.rollout.num_engines
    if on_gpu or is_split(roles):
        return max(1, block.num_slots // engine_size(roles.rollout, block, on_gpu))
    return block.num_nodes


def engine_problems(roles: ActorRolloutRefConfig, trainer: TrainerConfig, on_gpu: bool = True) -> list[str]:
    """Why engines do not fit on the slots that they may use."""
    rollout, block = roles.rollout, rollout_block(roles, trainer)
    size, prefix = engine_size(rollout, block, on_gpu), "actor_rollout_ref.rollout"
    if block.slots_per_node % size:
        return [
            f"{prefix}.tensor_model_parallel_size={rollout.tensor_model_parallel_size}: an engine of {size} GPUs does"
            f" not span machines, so it must divide the {block.slots_per_node} GPUs of each ({block.keys})"
        ]
    if on_gpu and (rollout.num_engines or 0) * size > block.num_slots:
        return [
            f"{prefix}.num_engines={rollout.num_engines}: {rollout.num_engines} engines x {size} GPU(s)"
            f" (tensor_model_parallel_size) are more than the {block.num_slots} GPUs ({block.keys})"
        ]
    return []
