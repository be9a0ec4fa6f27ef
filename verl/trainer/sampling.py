"""From prompts to scored samples: the part of a step that training and validation share.

A response is decoded and sent to the reward workers when it ends, while the others are still being written, and a group
is handed on when all of it is scored. Every response has a seed of its own, derived from where it stands in the run, so
a resumed run draws the same responses.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from verl.self_distillation.reprompt import Reprompt
from verl.types import Prompt, Request, Reward, Rollout, Sample, Sampling
from verl.workers.reward import RewardPool, ScoreItem
from verl.workers.rollout_pool import EnginesNeedWeights, RolloutPool


@dataclass(frozen=True)
class Batch:
    """A step's responses."""

    samples: list[Sample]
    reprompts: list[Reprompt] | None
    """One for each sample; None when the algorithm has no teacher."""


def derive_seed(*parts: int | str) -> int:
    """A 31-bit seed that depends on all parts and on nothing else."""
    digest = hashlib.blake2b(repr(parts).encode(), digest_size=4).digest()
    return int.from_bytes(digest, "big") & 0x7FFFFFFF


def make_requests(prompts: Sequence[Prompt], n: int, sampling: Sampling, seed: int) -> list[Request]:
    """`n` requests for each prompt, copies of a prompt adjacent."""
    return [
        Request(
            request_id=position * n + copy,
            prompt_ids=prompt.token_ids,
            sampling=sampling,
            seed=derive_seed(seed, prompt.index, copy),
        )
        for position, prompt in enumerate(prompts)
        for copy in range(n)
    ]


def sample_and_score(
    prompts: Sequence[Prompt],
    n: int,
    sampling: Sampling,
    seed: int,
    rollouts: RolloutPool,
    rewards: RewardPool,
    decode: Callable[[list[int]], str],
    on_group: Callable[[list[Sample]], None] | None = None,
) -> list[Sample]:
    """Write and score `n` responses for each prompt.

    Args:
        seed: of this call; the same seed and prompts give the same requests.
        decode: token ids to text without special tokens.
        on_group: called with the samples of a prompt, in order of requests, as soon as all of them are scored.

    Returns:
        One sample for each request, in order of requests: the copies of a prompt are adjacent and share a uid.

    Raises:
        EnginesNeedWeights: the batch cannot be finished with these weights; it may be asked for again after a sync.
    """
    texts: dict[int, tuple[Rollout, str]] = {}
    samples: dict[int, Sample] = {}

    def take(scored: Iterable[tuple[int, Reward]]) -> None:
        for request_id, reward in scored:
            group = request_id // n
            rollout, text = texts[request_id]
            samples[request_id] = Sample(str(group), prompts[group], rollout, text, reward)
            siblings = range(group * n, group * n + n)
            if on_group is not None and all(sibling in samples for sibling in siblings):
                on_group([samples[sibling] for sibling in siblings])

    try:
        for finished in rollouts.generate(make_requests(prompts, n, sampling, seed)):
            items: list[ScoreItem] = []
            for rollout in finished:
                text = decode(rollout.response_ids)
                texts[rollout.request_id] = (rollout, text)
                prompt, was_cut = prompts[rollout.request_id // n], rollout.finish_reason == "length"
                items.append(reward_item(prompt, rollout.request_id, text, was_cut))
            rewards.submit(items)
            take(rewards.finished())
    except EnginesNeedWeights:
        for _ in rewards.results():  # of the abandoned batch: the next one must not meet them
            pass
        raise
    take(rewards.results())
    return [samples[request_id] for request_id in sorted(samples)]


def reward_item(prompt: Prompt, request_id: int, text: str, was_cut: bool) -> ScoreItem:
    """What a scorer is asked about a response. `was_cut`: it reached its maximum length."""
    return ScoreItem(
        request_id=request_id,
        data_source=prompt.data_source,
        solution_str=text,
        ground_truth=prompt.ground_truth,
        extra_info=prompt.extra_info | {"truncated": was_cut, "num_turns": 1},
    )
