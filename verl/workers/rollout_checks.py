"""Can this be a response to that request? What an engine that has gone wrong gives itself away by.

These are not opinions about the text. A log-prob that is not finite, a token that the model does not have, a list that
is too short: each is proof that the engine's memory, its weights or its code are damaged.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from verl.types import Request, Rollout

ROUNDING = 1e-3
"""Nats. Normalising in another order may put the log-prob of a sure token this far above 0."""


def problem_of(
    rollouts: Any, asked: Mapping[int, Request], weight_version: int, vocab_size: int | None = None
) -> str | None:
    """What is wrong with responses that came together from one engine, for people; None when nothing is.

    Args:
        rollouts: what came; should be a list of `Rollout`.
        asked: by id, the requests that this engine was given and has not answered.
        weight_version: that all engines hold now.
        vocab_size: number of token ids of the model; None when it is not known.
    """
    if not isinstance(rollouts, list) or not all(isinstance(rollout, Rollout) for rollout in rollouts):
        return f"no list of responses, but {rollouts!r:.80}"
    ids = [rollout.request_id for rollout in rollouts]
    for rollout in rollouts:
        request = asked.get(rollout.request_id)
        if request is None or ids.count(rollout.request_id) > 1:
            return f"a response to request {rollout.request_id}, which it was not given or has answered already"
        if problem := _problem(rollout, request, weight_version, vocab_size):
            return f"a response to request {rollout.request_id} that cannot be right: {problem}"
    return None


def _problem(rollout: Rollout, request: Request, weight_version: int, vocab_size: int | None) -> str | None:
    tokens, log_probs, limit = rollout.response_ids, rollout.log_probs, request.sampling.max_tokens
    if rollout.weight_version != weight_version:
        return f"it was written by weights {rollout.weight_version}, and the pool holds {weight_version}"
    if rollout.prompt_ids != request.prompt_ids:
        return "its prompt is another one"
    if not 1 <= len(tokens) <= limit:
        return f"it has {len(tokens)} tokens, at least 1 and at most {limit} were asked for"
    if not len(tokens) == len(log_probs) == len(rollout.response_mask):
        return f"{len(tokens)} tokens, {len(log_probs)} log-probs and {len(rollout.response_mask)} bits of its mask"
    if not all(map(math.isfinite, log_probs)) or max(log_probs) > ROUNDING:
        wrong = next(value for value in log_probs if not value <= ROUNDING or not math.isfinite(value))
        return f"a log-prob of {wrong}"
    if min(tokens) < 0 or (vocab_size is not None and max(tokens) >= vocab_size):
        size = "not known" if vocab_size is None else vocab_size
        return f"token ids from {min(tokens)} to {max(tokens)}; the size of the vocabulary is {size}"
    return None
