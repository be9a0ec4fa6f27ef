"""A model that answers but does not learn: one engine with the weights of a checkpoint, and a scorer, in this process.

Engines never read a checkpoint. Here transformers does, hands the weights over, and must then give the same log-probs
to a fixed sequence, as the trainer must after every update (`verl.weights`).

Several GPUs serve one model through the engine's tensor parallelism; different questions run in processes of their own.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from verl.config import SandboxConfig
from verl.config.root import CustomRewardConfig, RewardConfig
from verl.models.loading import load_whole
from verl.registry import ENGINES
from verl.rollout.base import Engine, EngineSpec
from verl.single_controller import LocalWorkerGroup
from verl.types import Request, Reward, Rollout
from verl.weights import compare_log_probs, gap_threshold, probe_token_ids
from verl.workers.reward import RewardPool, RewardWorker, ScoreItem


@dataclass(frozen=True)
class BaseModel:
    """See the module."""

    engine: Engine
    rewards: RewardPool

    def write(self, requests: Sequence[Request]) -> list[Rollout]:
        """A response to each request, in their order."""
        written = {rollout.request_id: rollout for part in self.engine.generate(requests) for rollout in part}
        return [written[request.request_id] for request in requests]

    def score(self, items: Sequence[ScoreItem]) -> list[Reward]:
        """The reward of each response, in their order; request ids are different."""
        self.rewards.submit(items)
        scored = dict(self.rewards.results())
        return [scored[item.request_id] for item in items]


@contextmanager
def base_model(
    spec: EngineSpec,
    custom: CustomRewardConfig | None = None,
    reward: RewardConfig | None = None,
    sandbox: SandboxConfig | None = None,
) -> Iterator[BaseModel]:
    """Start engine and scorer; both end with the block.

    Args:
        spec: of the engine; `model_path` has the weights.
        custom: a scorer of the user's own.
        reward: what scorers may tell.
        sandbox: for programs that are graded.
    """
    scorer = (custom or CustomRewardConfig(), reward or RewardConfig(), sandbox or SandboxConfig())
    rewards = LocalWorkerGroup("reward", RewardWorker, scorer)
    try:
        engine: Engine = ENGINES.load(spec.rollout.name)(spec)
        try:
            give_weights(engine, spec)
            yield BaseModel(engine, RewardPool(rewards, scorer[1]))
        finally:
            engine.close()
    finally:
        rewards.shutdown()


NUM_PROBE_TOKENS = 16


@torch.inference_mode()
def give_weights(engine: Engine, spec: EngineSpec) -> None:
    """Load the checkpoint's weights into its engine, and see that they arrived.

    Raises:
        InputError: the checkpoint is not whole.
        WeightSyncError: the engine computes something else than transformers.
    """
    lm = load_whole(spec.model_path, getattr(torch, spec.dtype), spec.trust_remote_code)
    engine.load_weights(((name, value.detach()) for name, value in lm.named_parameters(remove_duplicate=False)), 0)
    probe = probe_token_ids(lm.config.get_text_config().vocab_size, NUM_PROBE_TOKENS, spec.max_model_len)
    log_probs = lm(input_ids=torch.tensor([probe])).logits[0, :-1].float().log_softmax(-1)
    expected = log_probs.gather(-1, torch.tensor(probe)[1:, None])[:, 0].tolist()
    compare_log_probs(expected, engine.log_probs(probe), gap_threshold(spec.dtype, None))
