"""High-entropy GRPO (arXiv 2506.01939): the policy gradient only where the policy was least certain.

The few tokens of a chain of thought at which it forks have a high entropy, and learning from them alone is said to do
as well as learning from all. Here the other tokens' advantages become 0, so any loss that learns from advantages can do
it, and what it is divided by (all response tokens) stays. The share is taken over the whole rollout batch of a step,
with entropies of the policy that wrote it, before its first update: on the driver, so micro-batches, mini-batches and
ranks have no part in it. (The paper takes it over each batch of an update.)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from verl.protocol import Row


def keep_high_entropy(rows: Sequence[Row], fraction: float) -> tuple[list[Row], float]:
    """Set the advantages of all but the most uncertain tokens to 0.

    Args:
        rows: a rollout batch with `advantages` and `entropies`.
        fraction: in (0, 1]: share of the tokens the policy wrote that keep their advantages; at least one does, and
            more than this share only where entropies are equal.

    Returns:
        The rows, without `entropies`, which nothing needs any more, and the least entropy that was kept, in nats (0
        when nothing was written).
    """
    written = sorted(
        (h for row in rows for h, bit in zip(row.entropies, row.response_mask, strict=True) if bit), reverse=True
    )
    threshold = written[max(1, round(fraction * len(written))) - 1] if written else 0.0
    kept = [
        replace(
            row,
            advantages=[a if h >= threshold else 0.0 for a, h in zip(row.advantages, row.entropies, strict=True)],
            entropies=[],
        )
        for row in rows
    ]
    return kept, threshold
