"""Did the engines really get the trainer's weights? Pure comparisons; `WeightSyncError` says what is likely wrong.

A wrong sync does not crash: rollouts become slightly off-policy, and the run learns badly for days. It has happened by
a stale packed copy of a tied head, by layers that a loader silently skipped, and by a prefix cache kept over an update.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from typing import Literal


class WeightSyncError(RuntimeError):
    """An engine does not compute with the weights that the trainer sent."""


def gap_threshold(dtype: Literal["float32", "bfloat16"], configured: float | None) -> float:
    """Largest mean difference of the probe's log-probs, in nats: as configured, or by the engine's type."""
    if configured is not None:
        return configured
    return 1e-3 if dtype == "float32" else 0.1


def probe_token_ids(vocab_size: int, num_tokens: int, max_model_len: int) -> list[int]:
    """The fixed sequence that trainer and engines score: uniform over the vocabulary, always the same.

    At most `max_model_len - 1` long, for an engine scores a sequence only with room for one more token.
    """
    return random.Random(0).choices(range(vocab_size), k=min(num_tokens, max_model_len - 1))


def compare_log_probs(
    trainer: Sequence[float],
    engine: Sequence[float],
    threshold: float,
    engine_name: str = "the engine",
    engine_before: Sequence[float] | None = None,
) -> float:
    """Mean absolute difference of the probe's log-probs, in nats.

    Args:
        trainer: log-probs of the probe under the weights that were sent.
        engine: under the weights that arrived.
        threshold: largest acceptable mean difference.
        engine_name: how messages name the engine.
        engine_before: what the engine said before the sync, if known: tells "nothing arrived" from "wrong values".

    Raises:
        WeightSyncError: beyond the threshold, not finite, or of unequal length; names the probable cause.
    """
    if len(trainer) != len(engine):
        raise WeightSyncError(
            f"{engine_name} scored {len(engine)} tokens of the probe and the trainer {len(trainer)}: they were not"
            " asked the same."
        )
    differences = [abs(a - b) for a, b in zip(trainer, engine, strict=True)]
    gap = math.fsum(differences) / len(differences)
    if gap <= threshold:  # false for nan
        return gap
    raise WeightSyncError(
        f"After the weight sync {engine_name} and the trainer disagree: mean gap of the probe's log-probs"
        f" {gap:.3g} nats (largest {max(differences):.3g}), allowed {threshold:.3g}. Probable cause:"
        f" {_probable_cause(trainer, engine, gap, threshold, engine_before)}"
    )


def _probable_cause(
    trainer: Sequence[float], engine: Sequence[float], gap: float, threshold: float, before: Sequence[float] | None
) -> str:
    if not all(map(math.isfinite, trainer)):
        return "the trainer's weights hold nan or inf; look at the gradient norm and the learning rate."
    if not all(map(math.isfinite, engine)):
        return "weights were damaged on the way or overflow in the engine's type."
    if before is not None and list(before) == list(engine):
        return "the engine still serves its old weights; none of the sent tensors took effect."
    if gap < 10 * threshold:
        return (
            "trainer and engine compute in different precision. If both dtypes are meant, raise"
            " actor_rollout_ref.rollout.weight_sync.max_log_prob_gap."
        )
    return (
        "some tensors were not loaded or hold other values: a tied lm_head left out of the stream, names that the"
        " engine skipped, LoRA adapters not merged, or memory changed while it was sent."
    )


def compare_digests(sent: Sequence[str], received: Sequence[str], engine_name: str = "the engine") -> None:
    """Raise WeightSyncError when the buckets an engine received are not those that were sent."""
    if list(sent) == list(received):
        return
    if len(sent) != len(received):
        raise WeightSyncError(f"{engine_name} received {len(received)} buckets of weights, {len(sent)} were sent.")
    wrong = [number for number, pair in enumerate(zip(sent, received, strict=True)) if pair[0] != pair[1]]
    raise WeightSyncError(
        f"{engine_name} received other bytes than were sent, in buckets {wrong[:10]} of {len(sent)}. Probable cause:"
        " memory changed while it was sent (an optimizer step during the sync), or a faulty transport."
    )
