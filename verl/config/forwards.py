"""How much goes into one forward of a rank: what the keys of actor, rollout and ref say together.

The log-prob keys follow the actor's where they are null, as in verl. Without a backward no activations are kept, so
that twice the tokens fit.
"""

from __future__ import annotations

from dataclasses import dataclass

from verl.config.actor import ActorConfig, RefConfig
from verl.config.rollout import RolloutConfig
from verl.config.root import ActorRolloutRefConfig


@dataclass(frozen=True)
class ForwardLimits:
    """How much goes into one forward, of one rank or of several together, and how its tokens are counted."""

    max_rows: int | None = None
    """None: all of a rank's rows. Of no effect with `max_tokens`."""
    max_tokens: int | None = None
    """Tokens the forward runs; a single longer row stands alone."""
    remove_padding: bool = True
    """Rows are packed; otherwise each counts as many tokens as the longest beside it."""
    share_prefixes: bool = True
    """Tokens of a common beginning run, and count, once (packed only)."""
    num_ranks: int = 1
    """Ranks that run a forward together, each a part of its tokens (packed only)."""


def update_limits(roles: ActorRolloutRefConfig) -> ForwardLimits:
    """Of the student's forward and backward."""
    actor = roles.actor
    num_ranks = actor.ulysses_sequence_parallel_size
    max_tokens = num_ranks * actor.ppo_max_token_len_per_gpu if actor.use_dynamic_bsz else None
    return ForwardLimits(
        actor.ppo_micro_batch_size_per_gpu,
        max_tokens,
        roles.model.use_remove_padding,
        actor.use_prefix_grouper,
        num_ranks,
    )


def log_prob_limits(roles: ActorRolloutRefConfig, section: RolloutConfig | RefConfig) -> ForwardLimits:
    """Of a forward without backward: old log-probs (`roles.rollout`), or the teacher or reference (`roles.ref`)."""
    actor = roles.actor
    return ForwardLimits(
        section.log_prob_micro_batch_size_per_gpu or actor.ppo_micro_batch_size_per_gpu,
        log_prob_tokens(actor, section),
        roles.model.use_remove_padding,
        actor.use_prefix_grouper,
        actor.ulysses_sequence_parallel_size,
    )


def log_prob_tokens(actor: ActorConfig, section: RolloutConfig | RefConfig) -> int | None:
    """The token budget of such a forward, all of its ranks together; None when it is cut by rows."""
    is_dynamic = section.log_prob_use_dynamic_bsz
    if not (actor.use_dynamic_bsz if is_dynamic is None else is_dynamic):
        return None
    per_rank = section.log_prob_max_token_len_per_gpu or 2 * actor.ppo_max_token_len_per_gpu
    return per_rank * actor.ulysses_sequence_parallel_size
