"""The batch of one policy update, how it is cut into mini- and micro-batches, and the shapes everybody uses.

| letter | meaning                          | letter | meaning              |
|--------|----------------------------------|--------|----------------------|
| B      | rows (responses)                 | V      | vocabulary           |
| T      | response tokens, padded          | K      | top-k entries        |
| S      | prompt plus response, padded     | H      | hidden size          |
| N      | packed (unpadded) tokens         |        |                      |

Rows travel unpadded (`Row`: plain lists of token ids), because padding is a property of one forward, not of the data.
The driver decides everything that must agree between ranks: which rows form a mini-batch, which rank computes which
row, how many micro-batches every rank runs (FSDP's collectives need the same number everywhere), and by what the loss
is divided. Ranks then only compute, and the gradient of a mini-batch depends on its samples alone, not on the cut.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Row:
    """One response as the update sees it. Per-token lists have the length of `response_ids`."""

    prompt_ids: list[int]
    response_ids: list[int]
    response_mask: list[int]
    """1 where the policy wrote the token: these enter the losses."""
    rollout_log_probs: list[float] = field(default_factory=list)
    """Log-probs of the engine that wrote the response (empty: not known)."""
    advantages: list[float] = field(default_factory=list)
    """Per token; empty when the algorithm uses none."""
    old_log_probs: list[float] = field(default_factory=list)
    """Of the policy before the first update of this batch; empty: the update's own detached values serve."""
    ref_log_probs: list[float] = field(default_factory=list)
    """Of the frozen reference (KL loss, KL in the reward)."""
    teacher_prompt_ids: list[int] = field(default_factory=list)
    """The reprompted prompt the teacher sees; empty when the sample has no target."""
    index: int = 0
    """Position in the rollout batch: per-row results come back under it, and messages name it."""

    @property
    def is_taught(self) -> bool:
        """Whether the sample has a teacher prompt (`self_distillation_mask` = 1)."""
        return bool(self.teacher_prompt_ids)

    @property
    def num_tokens(self) -> int:
        """Tokens of the student's sequence: the cost of the row."""
        return len(self.prompt_ids) + len(self.response_ids)


@dataclass(frozen=True)
class MaskTotals:
    """What a loss over one mask is divided by: counts over the whole mini-batch, all ranks together."""

    num_tokens: int
    num_rows: int
    """Rows with at least one counted token."""


@dataclass(frozen=True)
class Totals:
    """The two masks of an update: every response token, and those of samples that have a target."""

    response: MaskTotals
    taught: MaskTotals
    max_response_length: int
    """T of the mini-batch, the divisor of `seq-mean-token-sum-norm` when no factor is set."""


def count_totals(rows: Sequence[Row]) -> Totals:
    """Count what a mini-batch's losses are divided by."""
    counts = [sum(row.response_mask) for row in rows]
    taught = [count if row.is_taught else 0 for count, row in zip(counts, rows, strict=True)]
    return Totals(
        response=MaskTotals(sum(counts), sum(count > 0 for count in counts)),
        taught=MaskTotals(sum(taught), sum(count > 0 for count in taught)),
        max_response_length=max((len(row.response_ids) for row in rows), default=0),
    )


Metrics = dict[str, tuple[float, float]]
"""Name -> (sum, count): the mean is taken only after micro-batches and ranks have been added up."""


def add_metrics(parts: Iterable[Metrics]) -> Metrics:
    """Add sums and counts name by name."""
    total: Metrics = {}
    for part in parts:
        for name, (value, count) in part.items():
            old_value, old_count = total.get(name, (0.0, 0.0))
            total[name] = (old_value + value, old_count + count)
    return total


def mean_metrics(metrics: Metrics) -> dict[str, float]:
    """Turn sums and counts into means; a metric that counted nothing is left out."""
    return {name: value / count for name, (value, count) in metrics.items() if count}


@dataclass(frozen=True)
class MiniBatch:
    """One rank's part of one optimizer step."""

    micro_batches: list[list[Row]]
    """The same number on every rank; a micro-batch may be empty (the rank then only takes part in collectives)."""
    totals: Totals
    """Of the whole mini-batch, all ranks."""


def balance(costs: Sequence[int], num_bins: int) -> list[list[int]]:
    """Put indices into bins of nearly equal cost: largest first, always into the cheapest bin.

    Returns one ascending list of indices for each bin. Deterministic; ties go to the lower bin.
    """
    bins: list[list[int]] = [[] for _ in range(num_bins)]
    loads = [0] * num_bins
    for index in sorted(range(len(costs)), key=lambda i: (-costs[i], i)):
        cheapest = min(range(num_bins), key=lambda b: (loads[b], b))
        bins[cheapest].append(index)
        loads[cheapest] += costs[index]
    return [sorted(members) for members in bins]


def _cut(rows: list[Row], micro_batch_size: int | None, max_tokens: int | None) -> list[list[Row]]:
    """Cut one rank's rows into micro-batches by row count, or by token count when `max_tokens` is given."""
    cut: list[list[Row]] = []
    load = 0
    for row in rows:
        if max_tokens is not None:
            fits = bool(cut) and load + row.num_tokens <= max_tokens
        else:
            fits = bool(cut) and (micro_batch_size is None or len(cut[-1]) < micro_batch_size)
        if not fits:
            cut.append([])
            load = 0
        cut[-1].append(row)
        load += row.num_tokens
    return cut


def plan_mini_batch(
    rows: Sequence[Row],
    world_size: int,
    micro_batch_size: int | None = None,
    max_tokens: int | None = None,
    is_balanced: bool = True,
    totals: Totals | None = None,
) -> list[MiniBatch]:
    """Cut one mini-batch into one `MiniBatch` for each rank.

    Args:
        rows: all rows of the optimizer step.
        world_size: number of data-parallel ranks.
        micro_batch_size: rows in one forward; None puts all rows of a rank into one.
        max_tokens: student tokens in one forward, instead of `micro_batch_size`; a longer single row stands alone.
        is_balanced: spread rows by cost; otherwise in order, in contiguous parts.
        totals: the divisors of the loss; counted from `rows` when not given.
    """
    if is_balanced:
        parts = balance([row.num_tokens for row in rows], world_size)
    else:
        bounds = [len(rows) * rank // world_size for rank in range(world_size + 1)]
        parts = [list(range(bounds[rank], bounds[rank + 1])) for rank in range(world_size)]
    cut = [_cut([rows[i] for i in part], micro_batch_size, max_tokens) for part in parts]
    num_micro_batches = max(1, *(len(micro_batches) for micro_batches in cut))
    totals = totals or count_totals(rows)
    return [MiniBatch(own + [[]] * (num_micro_batches - len(own)), totals) for own in cut]
