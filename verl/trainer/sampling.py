"""From prompts to scored samples: the part of a step that training and validation share.

A response is decoded and sent to the reward workers when it ends, while the others are still being written. Every
response has a seed of its own, derived from where it stands in the run, so a resumed run draws the same responses.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence

from verl.types import Prompt, Request, Rollout, Sample, Sampling
from verl.workers.reward import RewardPool, ScoreItem
from verl.workers.rollout import RolloutPool


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
) -> list[Sample]:
    """Write and score `n` responses for each prompt.

    Args:
        seed: of this call; the same seed and prompts give the same requests.
        decode: token ids to text without special tokens.

    Returns:
        One sample for each request, in order of requests: the copies of a prompt are adjacent and share a uid.
    """
    requests = make_requests(prompts, n, sampling, seed)
    done: dict[int, tuple[Rollout, str]] = {}
    for finished in rollouts.generate(requests):
        items: list[ScoreItem] = []
        for rollout in finished:
            text = decode(rollout.response_ids)
            done[rollout.request_id] = (rollout, text)
            items.append(_reward_item(prompts[rollout.request_id // n], rollout, text))
        rewards.submit(items)
    scored = dict(rewards.results())
    return [
        Sample(
            uid=str(request.request_id // n),
            prompt=prompts[request.request_id // n],
            rollout=done[request.request_id][0],
            response_text=done[request.request_id][1],
            reward=scored[request.request_id],
        )
        for request in requests
    ]


def _reward_item(prompt: Prompt, rollout: Rollout, text: str) -> ScoreItem:
    return ScoreItem(
        request_id=rollout.request_id,
        data_source=prompt.data_source,
        solution_str=text,
        ground_truth=prompt.ground_truth,
        extra_info=prompt.extra_info | {"truncated": rollout.finish_reason == "length", "num_turns": 1},
    )
