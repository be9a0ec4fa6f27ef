"""The batch of one policy update, how it is cut into mini- and micro-batches, and the shapes everybody uses.

| letter | meaning                          | letter | meaning              |
|--------|----------------------------------|--------|----------------------|
| B      | rows (responses)                 | V      | vocabulary           |
| T      | response tokens, padded          | K      | top-k entries        |
| S      | prompt plus response, padded     | H      | hidden size          |
| N      | tokens that a forward runs       | M      | its response tokens  |

Rows travel unpadded (`Row`: plain lists of token ids), because padding is a property of one forward, not of the data.
The driver decides everything that must agree between ranks: which rows form a mini-batch, which rank computes which
row, how many forwards every rank runs (FSDP's collectives need the same number everywhere), and by what the loss is
divided. Ranks then only compute, and the gradient of a mini-batch depends on its samples alone, not on the cut.

A rank's rows are laid out in a line, rows that begin alike beside each other, and only ever cut into consecutive parts:
so every part shares what its rows have in common, and the fewest and most equal parts are found by simply filling up.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field, replace
from itertools import accumulate

from verl.config.forwards import ForwardLimits
from verl.prefixes import num_packed_tokens, prefix_order


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
    entropies: list[float] = field(default_factory=list)
    """Of the policy before the first update, in nats; stay on the driver (`verl.algorithms.high_entropy`)."""
    ref_log_probs: list[float] = field(default_factory=list)
    """Of the frozen reference (KL loss, KL in the reward)."""
    teacher_prompt_ids: list[int] = field(default_factory=list)
    """The reprompted prompt the teacher sees; empty when the sample has no target."""
    index: int = 0
    """Position in the rollout batch: per-row results come back under it, and messages name it."""
    distillation_weight: float = 1.0
    """What its self-distillation counts (`self_distillation.pass_rate_weight`)."""
    is_routed: bool = False
    """Learnt by the policy gradient alone, and with all its weight (`self_distillation.correct_samples=grpo`)."""
    is_anchor: bool = False
    """A self-anchor (`as_anchor`): enters no loss but the anchor's."""
    loss_rank: int = 0
    """Which of the ranks that run its forward together computes its part of the loss."""

    @property
    def is_taught(self) -> bool:
        """Whether the sample has a teacher prompt (`self_distillation_mask` = 1)."""
        return bool(self.teacher_prompt_ids)

    @property
    def num_tokens(self) -> int:
        """Tokens of the student's sequence: the cost of the row."""
        return len(self.prompt_ids) + len(self.response_ids)

    def sequence(self, for_teacher: bool = False) -> list[int]:
        """What a forward runs: the prompt (or the teacher's) and the response but for its last token, which predicts
        nothing."""
        return (self.teacher_prompt_ids if for_teacher else self.prompt_ids) + self.response_ids[:-1]

    def as_anchor(self) -> Row:
        """The taught row once more with the teacher's prompt for the student too: there it is held to the teacher."""
        return replace(self, prompt_ids=self.teacher_prompt_ids, is_anchor=True)


@dataclass(frozen=True)
class MaskTotals:
    """What a loss over one mask is divided by: counts over the whole mini-batch, all ranks together."""

    num_tokens: int
    num_rows: int
    """Rows with at least one counted token."""


@dataclass(frozen=True)
class Totals:
    """The masks of an update: every response token, those of samples that have a target, and those of anchors."""

    response: MaskTotals
    taught: MaskTotals
    max_response_length: int
    """T of the mini-batch, the divisor of `seq-mean-token-sum-norm` when no factor is set."""
    anchored: MaskTotals = MaskTotals(0, 0)


def count_totals(rows: Sequence[Row], anchored: Collection[int] = ()) -> Totals:
    """Count what a mini-batch's losses are divided by; `anchored`: see `plan_mini_batch`."""
    return Totals(
        response=_count(rows),
        taught=_count([row for row in rows if row.is_taught]),
        max_response_length=max((len(row.response_ids) for row in rows), default=0),
        anchored=_count(_anchors(rows, anchored)),
    )


def _count(rows: Sequence[Row]) -> MaskTotals:
    counts = [sum(row.response_mask) for row in rows]
    return MaskTotals(sum(counts), sum(count > 0 for count in counts))


def _anchors(rows: Sequence[Row], anchored: Collection[int]) -> list[Row]:
    return [row.as_anchor() for row in rows if row.is_taught and row.index in anchored]


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
    """One rank's part of one optimizer step, or of a forward without one."""

    micro_batches: list[list[Row]]
    """The same number on every rank; one is empty only if the rank has fewer rows (it then joins in collectives)."""
    totals: Totals
    """Of the whole mini-batch, all ranks."""
    teacher_packs: list[list[Row]] = field(default_factory=list)
    """The rank's taught rows, cut anew for the teacher: the same number on every rank, none if no rank has a taught
    row."""


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


Sequences = Sequence[list[int]]


class _Line:
    """Sequences in an order that puts common beginnings side by side, and what a forward of consecutive ones costs."""

    def __init__(self, sequences: Sequences, limits: ForwardLimits) -> None:
        self.limits = limits
        if limits.remove_padding and limits.share_prefixes:
            self.order, shared = prefix_order(sequences)
        else:  # long ones first: what stands side by side is then of nearly one length
            self.order = sorted(range(len(sequences)), key=lambda i: (-len(sequences[i]), i))
            shared = [0] * len(sequences)
        self.lengths = [len(sequences[index]) for index in self.order]
        self.sums = list(accumulate((n - s for n, s in zip(self.lengths, shared, strict=True)), initial=0))

    def tokens(self, start: int, stop: int) -> int:
        """Tokens that a forward of places `start` to `stop` - 1 runs; never fewer for more places."""
        if start == stop:
            return 0
        if not self.limits.remove_padding:
            return (stop - start) * self.lengths[start]
        return self.lengths[start] + self.sums[stop] - self.sums[start + 1]

    def fill(self, max_tokens: float) -> list[range]:
        """The fewest consecutive parts of at most `max_tokens` each; a single longer sequence is a part."""
        max_rows = self.limits.max_rows if self.limits.max_tokens is None else None
        parts: list[range] = []
        start = 0
        for stop in range(1, len(self.order) + 1):
            is_last = stop == len(self.order)
            is_full = stop - start == max_rows
            if is_last or is_full or self.tokens(start, stop + 1) > max_tokens:
                parts.append(range(start, stop))
                start = stop
        return parts

    @property
    def num_parts(self) -> int:
        """How many forwards the limits ask for."""
        return len(self.fill(self.limits.max_tokens or math.inf))

    def cut(self, num_parts: int) -> list[list[int]]:
        """Cut into so many parts, at least `self.num_parts`, with the most tokens of a part as low as possible.

        Returns indices of the sequences. Parts are empty only if there are more of them than sequences.
        """
        if num_parts < 2 or not self.order:
            return [self.order, *([] for _ in range(num_parts - 1))][:num_parts]
        low, high = 1, self.tokens(0, len(self.order)) + max(self.lengths) * len(self.order)
        while low < high:
            middle = (low + high) // 2
            low, high = (low, middle) if len(self.fill(middle)) <= num_parts else (middle + 1, high)
        parts = self.fill(low)
        while len(parts) < min(num_parts, len(self.order)):
            widest = max((part for part in parts if len(part) > 1), key=lambda part: self.tokens(part.start, part.stop))
            middle = min(widest[1:], key=lambda i: max(self.tokens(widest.start, i), self.tokens(i, widest.stop)))
            place = parts.index(widest)
            parts[place : place + 1] = [range(widest.start, middle), range(middle, widest.stop)]
        empty = [range(0)] * (num_parts - len(parts))
        return [[self.order[place] for place in part] for part in [*parts, *empty]]


def _cut_alike(parts: Sequence[Sequence[Row]], limits: ForwardLimits, for_teacher: bool) -> list[list[list[Row]]]:
    """Cut every rank's rows into forwards, the same number for each rank."""
    lines = [_Line([row.sequence(for_teacher) for row in rows], limits) for rows in parts]
    num_parts = max(line.num_parts for line in lines)
    return [
        [[rows[index] for index in part] for part in line.cut(num_parts)]
        for rows, line in zip(parts, lines, strict=True)
    ]


def _work(rows: Sequence[Row], limits: ForwardLimits, has_teacher: bool, anchored: Collection[int]) -> int:
    """What rows cost a rank, in tokens of a forward. With a teacher there is also a backward, which costs two."""
    is_shared = limits.remove_padding and limits.share_prefixes
    count = num_packed_tokens if is_shared else lambda sequences: sum(map(len, sequences))
    student = count([row.sequence() for row in [*rows, *_anchors(rows, anchored)]])
    if not has_teacher:
        return student
    return 3 * student + count([row.sequence(for_teacher=True) for row in rows if row.is_taught])


def _assign(
    rows: Sequence[Row], world_size: int, limits: ForwardLimits, has_teacher: bool, anchored: Collection[int]
) -> list[list[Row]]:
    """Give every rank its rows: whole groups (rows of one prompt) or single rows, whichever burdens a rank the least.

    Whole groups share their prompt; single rows are for few groups, or groups of unequal weight.
    """
    if world_size == 1:
        return [list(rows)]
    groups: dict[tuple[int, ...], list[int]] = {}
    for index, row in enumerate(rows):
        groups.setdefault(tuple(row.prompt_ids), []).append(index)
    best: list[list[Row]] = []
    least = math.inf
    for units in (list(groups.values()), [[index] for index in range(len(rows))]):
        costs = [_work([rows[index] for index in unit], limits, has_teacher, anchored) for unit in units]
        parts = [
            [rows[index] for index in sorted(index for unit in chosen for index in units[unit])]
            for chosen in balance(costs, world_size)
        ]
        heaviest = max(_work(part, limits, has_teacher, anchored) for part in parts)
        if heaviest < least:
            best, least = parts, heaviest
    return best


def plan_mini_batch(
    rows: Sequence[Row],
    world_size: int,
    limits: ForwardLimits | None = None,
    teacher_limits: ForwardLimits | None = None,
    is_balanced: bool = True,
    keep_untaught: bool = True,
    anchored: Collection[int] = (),
) -> list[MiniBatch]:
    """Cut one mini-batch into one `MiniBatch` for each rank. Deterministic.

    Ranks that run their forwards together (`limits.num_ranks` neighbours) get the same part.

    Args:
        rows: all rows of the optimizer step.
        world_size: number of ranks; a multiple of `limits.num_ranks`.
        limits: of the student's forwards; None packs all rows of a rank into one.
        teacher_limits: of the teacher's; None plans no teacher.
        is_balanced: spread rows by cost; otherwise in order, in contiguous parts.
        keep_untaught: rows without a target take part in the loss; otherwise they are counted, but nobody runs them.
        anchored: indices of taught rows that the student also runs on the teacher's prompt (`Row.as_anchor`). Such a
            row stays on the rank of its original, where the teacher's hidden states for it are.
    """
    limits = limits or ForwardLimits()
    num_parts = world_size // limits.num_ranks
    used = [row for row in rows if keep_untaught or row.is_taught]
    if is_balanced:
        parts = _assign(used, num_parts, limits, teacher_limits is not None, anchored)
    else:
        bounds = [len(used) * part // num_parts for part in range(num_parts + 1)]
        parts = [used[bounds[part] : bounds[part + 1]] for part in range(num_parts)]
    micro_batches = _cut_alike([[*part, *_anchors(part, anchored)] for part in parts], limits, for_teacher=False)
    if limits.num_ranks > 1:
        micro_batches = [_with_loss_ranks(part, limits.num_ranks) for part in micro_batches]
        parts = [[row for rows in part for row in rows if not row.is_anchor] for part in micro_batches]
    teacher_packs: list[list[list[Row]]] = [[] for _ in parts]
    if teacher_limits is not None:
        taught = [[row for row in part if row.is_taught] for part in parts]
        teacher_packs = _cut_alike(taught, teacher_limits, for_teacher=True)
    totals = count_totals(rows, anchored)
    plan = [MiniBatch(own, totals, packs) for own, packs in zip(micro_batches, teacher_packs, strict=True)]
    return [part for part in plan for _ in range(limits.num_ranks)]


def _with_loss_ranks(micro_batches: Sequence[Sequence[Row]], num_ranks: int) -> list[list[Row]]:
    """The rows of forwards of several ranks, each with the rank that computes its loss: response tokens balanced.

    An anchor's rank is its original's, which keeps the teacher's hidden states for both.
    """
    originals = [_balanced([row for row in rows if not row.is_anchor], num_ranks) for rows in micro_batches]
    ranks = {row.index: row.loss_rank for rows in originals for row in rows}
    anchors = [[replace(row, loss_rank=ranks[row.index]) for row in rows if row.is_anchor] for rows in micro_batches]
    return [[*rows, *held] for rows, held in zip(originals, anchors, strict=True)]


def _balanced(rows: Sequence[Row], num_ranks: int) -> list[Row]:
    bins = balance([len(row.response_ids) for row in rows], num_ranks)
    ranks = {index: rank for rank, members in enumerate(bins) for index in members}
    return [replace(row, loss_rank=ranks[index]) for index, row in enumerate(rows)]
