"""One micro-batch on its way through the tiles: the loss, and its gradients by hidden states and head.

A tile's logits of student and teacher are multiplied out and read down to a few numbers for each token; the algorithm
turns those into the loss and, by autograd, into the gradient of those few numbers; that is spread over the logits in
place and multiplied into the gradients of hidden states and head, which are so complete when the forward ends; then the
buffers are used again. Four matrix products (the student's logits, the teacher's, two for the gradients) are all
that is left, and no logits are computed twice.

That needs a token's loss to depend on its own numbers alone. An algorithm that `couples_tokens` gets a first pass that
only reads the numbers of the whole micro-batch, and a second one for the gradients.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from verl.algorithms.base import Algorithm, LossInputs, ResponseTokens, TokenDistribution, configured_weights
from verl.algorithms.head import (
    Head,
    HiddenTerm,
    accumulate_,
    accumulation_dtype,
    logits,
    mixed_logits,
    prepared,
    product,
)
from verl.algorithms.softmax_tile import (
    Reading,
    compare_,
    divergence_gradient_,
    read,
    softmax_gradient_,
    top_k,
)
from verl.protocol import Metrics, Totals, add_metrics

_CPU_TILE_ELEMENTS = 1 << 21
_CPU_TILE_TOKENS = (128, 4096)
_CUDA_TILE_TOKENS = (256, 8192)
_CUDA_MEMORY_SHARE = 0.25


def tile_tokens(vocab_size: int, num_buffers: int, device: torch.device) -> int:
    """How many tokens a tile has.

    On a GPU as many as a quarter of the free memory allows. On a CPU fewer are better, since they stay in the cache,
    down to the point where the matrix products become too thin.
    """
    if device.type == "cuda":
        free = (
            torch.cuda.mem_get_info(device)[0]
            + torch.cuda.memory_reserved(device)
            - torch.cuda.memory_allocated(device)
        )
        tokens, (low, high) = int(free * _CUDA_MEMORY_SHARE) // (4 * vocab_size * num_buffers), _CUDA_TILE_TOKENS
    else:
        tokens, (low, high) = _CPU_TILE_ELEMENTS // vocab_size, _CPU_TILE_TOKENS
    return max(low, min(high, tokens // 64 * 64))


_PER_TOKEN = (
    "old_log_probs",
    "rollout_log_probs",
    "advantages",
    "ref_log_probs",
    "distillation_weights",
    "routed_mask",
)


@dataclass(frozen=True)
class _Numbers:
    """The few numbers of each token that a loss is made of; without a teacher only the student's own."""

    log_probs: Tensor
    """[n], like all but the two of the top k."""
    entropy: Tensor | None = None
    topk_log_probs: Tensor | None = None
    """[n, K]"""
    divergence: Tensor | None = None
    teacher_log_probs: Tensor | None = None
    teacher_entropy: Tensor | None = None
    teacher_topk_log_probs: Tensor | None = None
    agreement: Tensor | None = None


@dataclass(frozen=True)
class _Gradients:
    """The gradient of the loss by those of a tile's numbers that carry one."""

    log_probs: Tensor
    entropy: Tensor | None = None
    topk_log_probs: Tensor | None = None
    divergence: Tensor | None = None

    def of(self, rows: slice) -> _Gradients:
        """The part that belongs to some tokens; tokens without a teacher have less."""
        present = {name: value for name, value in vars(self).items() if value is not None and rows.start < len(value)}
        return _Gradients(**{name: value[rows] for name, value in present.items()})


@dataclass(frozen=True)
class _Tile:
    """A tile between its two halves: its buffers, and what the second half needs of what was read from them."""

    rows: slice
    numbers: _Numbers
    seen: Reading
    student: Tensor
    """[n, V] logits, or p after a comparison over the whole vocabulary."""
    teacher: Tensor | None = None
    """[n, V] u after such a comparison."""
    share: Tensor | None = None
    """[n] r of such a comparison."""
    topk_ids: Tensor | None = None
    """[n, K]"""


class LossStream:
    """One micro-batch on its way through the tiles; `hidden_grad` and `weight_grad()` are ready after `run`.

    Tokens are put in another order first: those of taught rows, then the others, without those that the policy did not
    write. So a tile has a teacher for all of its tokens or for none.
    """

    def __init__(
        self,
        algorithm: Algorithm,
        hidden: Tensor,
        head: Head,
        tokens: ResponseTokens,
        temperature: float,
        teacher_terms: Sequence[HiddenTerm],
        totals: Totals,
        tokens_per_tile: int | None,
    ) -> None:
        self.algorithm, self.support, self.totals, self.temperature = algorithm, algorithm.support, totals, temperature
        self.head = head
        device, dtype = hidden.device, accumulation_dtype(hidden.dtype)
        self.dtype = dtype
        lengths = torch.tensor(tokens.lengths, dtype=torch.long, device=device)
        self.is_taught_row = torch.tensor(tokens.is_taught, dtype=torch.bool, device=device)
        is_anchor = tokens.is_anchor or (False,) * len(tokens.lengths)
        self.is_anchor_row = torch.tensor(is_anchor, dtype=torch.bool, device=device)
        is_written, is_taught = tokens.mask > 0, self.is_taught_row.repeat_interleave(lengths)
        taught, others = ((is_written & wanted).nonzero()[:, 0] for wanted in (is_taught, ~is_taught))
        order = torch.cat([taught, others])
        self.order, self.num_taught = order, len(taught) if teacher_terms else 0

        row_starts = lengths.cumsum(0) - lengths
        self.row = torch.arange(len(lengths), device=device).repeat_interleave(lengths)[order]
        self.column = order - row_starts[self.row]
        self.max_length = max(tokens.lengths, default=0)

        self.ids = tokens.ids[order]
        self.student = HiddenTerm(1.0, hidden.detach(), prepared(head.detach()))
        self.teacher = [replace(term, head=prepared(term.head.detach())) for term in teacher_terms]
        self.order_of_teacher = (is_taught.cumsum(0) - 1)[taught]
        given = {name: getattr(tokens, name) for name in _PER_TOKEN}
        self.columns = {name: value[order] for name, value in given.items() if value is not None}
        anchored = self._padded(self.is_anchor_row[self.row].to(dtype))
        mask = self._padded(torch.ones(len(order), dtype=dtype, device=device)) - anchored
        masks = [
            ("response_weights", mask, totals.response),
            ("taught_weights", mask * self.is_taught_row[:, None], totals.taught),
        ]
        if any(is_anchor):
            self.columns["anchor_mask"] = anchored[self.row, self.column]
            masks.append(("anchor_weights", anchored, totals.anchored))
        for name, weighted, counted in masks:
            self.columns[name] = configured_weights(weighted, totals, counted, algorithm.actor)[self.row, self.column]

        vocab_size, is_capped = head.weight.shape[0], head.soft_cap is not None
        num_buffers = 1 + min(len(self.teacher), 2) + is_capped
        self.step = tokens_per_tile or tile_tokens(vocab_size, num_buffers, device)
        size = min(self.step, len(order))
        buffers = [hidden.new_empty(size, vocab_size, dtype=dtype) for _ in range(num_buffers)]
        self.slope = buffers.pop() if is_capped else None
        self.buffers = buffers
        self.hidden_grad = torch.zeros_like(hidden)
        """The gradient [M, H] by the hidden states."""
        self.weight_sum = torch.zeros_like(head.weight, dtype=dtype) if head.weight.requires_grad else None

    def run(self) -> tuple[Tensor, Metrics]:
        """Loss and metrics of an algorithm that looks at one token at a time."""
        total = self.buffers[0].new_zeros(())
        metrics: list[Metrics] = []
        for rows in self._tiles():
            tile = self._read(rows)
            loss, values, gradients = self._learn(tile.numbers, rows, lambda value: value.unsqueeze(1))
            self._spread(tile, gradients)
            total += loss
            metrics.append(values)
        return total, add_metrics(metrics)

    def run_coupled(self) -> tuple[Tensor, Metrics]:
        """The same for an algorithm that looks at whole rows: all numbers first, then every tile once more."""
        parts = [vars(self._read(rows).numbers) for rows in self._tiles()]
        if not parts:
            return self.buffers[0].new_zeros(()), {}
        found = {name: [part[name] for part in parts if part[name] is not None] for name in parts[0]}
        numbers = _Numbers(**{name: torch.cat(values) for name, values in found.items() if values})
        loss, metrics, gradients = self._learn(numbers, slice(None), self._padded)
        for rows in self._tiles():
            self._spread(self._read(rows), gradients.of(rows))
        return loss, metrics

    def weight_grad(self) -> Tensor | None:
        """The gradient [V, H] by the head, in its type; None if it needs none."""
        return None if self.weight_sum is None else self.weight_sum.to(self.head.weight.dtype)

    def _tiles(self) -> Iterator[slice]:
        for first, last in ((0, self.num_taught), (self.num_taught, len(self.order))):
            for start in range(first, last, self.step):
                yield slice(start, min(start + self.step, last))

    def _padded(self, values: Tensor) -> Tensor:
        """From the first tokens of the stream's order [n, ...] to rows [B, T, ...], zeros where there is none."""
        shape = (len(self.is_taught_row), self.max_length, *values.shape[1:])
        place = (self.row[: len(values)], self.column[: len(values)])
        return values.new_zeros(shape).index_put(place, values)

    def _read(self, rows: slice) -> _Tile:
        """First half: make the logits of a tile and read from them what the loss is made of."""
        support, n = self.support, rows.stop - rows.start
        student, *spare = (buffer[:n] for buffer in self.buffers)
        slope = None if self.slope is None else self.slope[:n]
        logits(self.student, self.order[rows], self.temperature, student, slope)
        needs_entropy = support.needs_entropy or support.needs_entropy_grad
        seen, ids = read(student, needs_entropy), self.ids[rows, None]
        own = _Numbers(seen.log_probs(student.gather(1, ids)).squeeze(1), seen.entropy)
        if rows.start >= self.num_taught:
            return _Tile(rows, own, seen, student)

        teacher = mixed_logits(self.teacher, self.order_of_teacher[rows], self.temperature, spare[0], spare[-1])
        taught = read(teacher, needs_entropy)
        topk_ids = top_k(student, min(support.topk, student.shape[1])) if support.topk is not None else None
        agreement = None
        if needs_entropy:
            likely = top_k(student, 1) if topk_ids is None else topk_ids
            best = likely.gather(1, student.gather(1, likely).argmax(dim=1, keepdim=True))
            agreement = (teacher.gather(1, best).squeeze(1) >= taught.largest).to(student.dtype)
        numbers = replace(
            own,
            teacher_log_probs=taught.log_probs(teacher.gather(1, ids)).squeeze(1),
            teacher_entropy=taught.entropy,
            agreement=agreement,
        )
        if topk_ids is not None:
            numbers = replace(
                numbers,
                topk_log_probs=seen.log_probs(student.gather(1, topk_ids)),
                teacher_topk_log_probs=taught.log_probs(teacher.gather(1, topk_ids)),
            )
        if support.divergence is None:
            return _Tile(rows, numbers, seen, student, topk_ids=topk_ids)
        distance, share = compare_(student, teacher, seen, taught, *support.divergence)
        numbers = replace(numbers, divergence=distance)
        return _Tile(rows, numbers, seen, student, teacher, share, topk_ids)

    def _learn(
        self, numbers: _Numbers, rows: slice, arrange: Callable[[Tensor], Tensor]
    ) -> tuple[Tensor, Metrics, _Gradients]:
        """Ask the algorithm for the loss and its gradient by the numbers.

        Args:
            numbers: of the tokens.
            rows: which tokens of the stream these are.
            arrange: from [n, ...] to the rows by tokens of `LossInputs`.
        """

        def placed(value: Tensor | None) -> Tensor | None:
            return None if value is None else arrange(value)

        carriers = {
            "log_probs": numbers.log_probs,
            "entropy": numbers.entropy if self.support.needs_entropy_grad else None,
            "topk_log_probs": numbers.topk_log_probs,
            "divergence": numbers.divergence,
        }
        leaves = {name: value.requires_grad_() for name, value in carriers.items() if value is not None}
        is_target_row = self.is_taught_row & ~self.is_anchor_row
        is_target = is_target_row if arrange == self._padded else is_target_row[self.row[rows]]
        with torch.enable_grad():
            teacher = None
            if numbers.teacher_log_probs is not None:
                teacher = TokenDistribution(
                    arrange(numbers.teacher_log_probs),
                    placed(numbers.teacher_entropy),
                    placed(numbers.teacher_topk_log_probs),
                )
            log_probs = arrange(numbers.log_probs)
            loss, metrics = self.algorithm.loss(
                LossInputs(
                    student=TokenDistribution(log_probs, placed(numbers.entropy), placed(numbers.topk_log_probs)),
                    response_mask=arrange((~self.is_anchor_row[self.row[rows]]).to(log_probs.dtype)),
                    self_distillation_mask=is_target.to(log_probs.dtype),
                    totals=self.totals,
                    teacher=teacher,
                    divergence=placed(numbers.divergence),
                    agreement=placed(numbers.agreement),
                    **{name: arrange(values[rows]) for name, values in self.columns.items()},
                )
            )
            # A loss of nothing that counts may be a constant.
            by_leaf = torch.autograd.grad(loss, list(leaves.values()), allow_unused=True) if loss.requires_grad else ()
        found = {name: value for name, value in zip(leaves, by_leaf, strict=False) if value is not None}
        log_probs_grad = found.pop("log_probs", torch.zeros_like(numbers.log_probs))
        return loss.detach(), metrics, _Gradients(log_probs_grad, **found)

    def _spread(self, tile: _Tile, gradients: _Gradients) -> None:
        """Second half: turn the tile's logits into their gradient and multiply it into those of hidden and head."""
        rows, by_topk, by_divergence = tile.rows, gradients.topk_log_probs, gradients.divergence
        share = -gradients.log_probs
        if by_topk is not None:
            share = share - by_topk.sum(dim=1)
        if tile.teacher is not None and tile.share is not None and by_divergence is not None:
            share = share - by_divergence * tile.share
            change = divergence_gradient_(
                tile.student, tile.teacher, tile.seen, share, by_divergence, gradients.entropy
            )
        else:
            change = softmax_gradient_(tile.student, tile.seen, share, gradients.entropy)
        change.scatter_add_(1, self.ids[rows, None], gradients.log_probs[:, None])
        if by_topk is not None and tile.topk_ids is not None:
            change.scatter_add_(1, tile.topk_ids, by_topk)
        if self.slope is not None:
            change.mul_(self.slope[: len(change)])
        scale = self.head.scale / self.temperature
        weight, order = self.student.head.weight, self.order[rows]
        change = change.to(weight.dtype)
        hidden = self.student.hidden[order].to(weight.dtype)
        by_hidden = product(change, weight, torch.empty_like(hidden, dtype=self.dtype)).mul_(scale)
        self.hidden_grad.index_copy_(0, order, by_hidden.to(self.hidden_grad.dtype))
        if self.weight_sum is not None:
            accumulate_(self.weight_sum, change.T, hidden, scale)
