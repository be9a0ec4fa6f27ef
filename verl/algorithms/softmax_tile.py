"""What a loss needs of a tile of logits [n, V]: a few numbers for each token, and the gradient of the logits.

Everything here works in place on two buffers as large as the tile. Passes over the vocabulary go strip by strip (some
rows that fit into a core's cache), so that a tile is read from memory once for several operations. With l the logits,
p = softmax(l), and g the gradient of the loss by a number, the gradient by l of

    log p_i                 g (e_i - p)
    entropy H = -sum p log p            -g p (log p + H)
    divergence D(p, q)                   g (u - r p), see `compare_`

so the sum of all of them is one dense multiple of p, one of u, and single values at the sampled and the top-k tokens.

What is written here in torch runs everywhere; float32 tiles on a GPU go to the kernels of `softmax_tile_triton`, where
Triton is installed.
"""

from __future__ import annotations

import functools
import importlib.util
import math
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from types import ModuleType

import torch
from torch import Tensor

_STRIP_BYTES = 1 << 20  # half of a usual L2 cache
_MIN_BLOCK = 4  # smaller ones cost more than they save


@dataclass(frozen=True)
class Reading:
    """What `read` finds of rows of logits l; all [n].

    log p = (l - largest) - log_total, in this order: the likely tokens then keep their last digits, which l minus the
    whole normaliser would lose to the size of l.
    """

    largest: Tensor
    """max l."""
    log_total: Tensor
    """log sum exp(l - largest)."""
    entropy: Tensor | None
    """In nats."""

    def log_probs(self, logits: Tensor) -> Tensor:
        """From some logits of each row, [n, k], to their log-probs."""
        return (logits - self.largest[:, None]) - self.log_total[:, None]


def read(logits: Tensor, needs_entropy: bool) -> Reading:
    """Maximum, normaliser and entropy of each row. The logits [n, V] stay as they are."""
    if kernels := _kernels(logits):
        return Reading(*kernels.read(logits, needs_entropy))
    n = len(logits)
    largest, log_total, moment = (logits.new_empty(n) for _ in range(3))
    spare = [logits.new_empty(_strip_rows(logits), logits.shape[1]) for _ in range(1 + needs_entropy)]
    for rows in _strips(logits):
        strip = logits[rows]
        shifted, *others = (buffer[: len(strip)] for buffer in spare)
        torch.amax(strip, dim=1, out=largest[rows])
        torch.sub(strip, largest[rows, None], out=shifted)
        if needs_entropy:  # H = log Z - sum p (l - largest)
            weights = torch.exp(shifted, out=others[0])
            total = weights.sum(dim=1)
            torch.div(shifted.mul_(weights).sum(dim=1), total, out=moment[rows])
        else:
            total = shifted.exp_().sum(dim=1)
        torch.log(total, out=log_total[rows])
    return Reading(largest, log_total, log_total - moment if needs_entropy else None)


def top_k(logits: Tensor, k: int) -> Tensor:
    """Indices [n, k] of the largest logits of each row, in no order.

    The k largest stand in the k blocks whose maxima are the largest, so only these are searched: exact, and for a
    large vocabulary many times faster than sorting it.
    """
    n, size = logits.shape
    block = 2 ** max(0, round(math.log2(size / k) / 2))
    if block < _MIN_BLOCK:
        return logits.topk(k, dim=1, sorted=False).indices
    num_blocks = size // block
    body, rest = logits[:, : num_blocks * block].unflatten(1, (num_blocks, block)), size - num_blocks * block
    kernels = _kernels(logits)
    maxima = kernels.block_maxima(logits, block) if kernels else body.amax(dim=2)
    best = maxima.topk(min(k, num_blocks), dim=1, sorted=False).indices  # [n, blocks]
    values = body.gather(1, best[:, :, None].expand(-1, -1, block)).flatten(1)
    ids = (best[:, :, None] * block + torch.arange(block, device=logits.device)).flatten(1)
    if rest:
        tail = torch.arange(size - rest, size, device=logits.device).expand(n, rest)
        values, ids = torch.cat([values, logits[:, -rest:]], dim=1), torch.cat([ids, tail], dim=1)
    return ids.gather(1, values.topk(k, dim=1, sorted=False).indices)


def compare_(
    student: Tensor, teacher: Tensor, of_student: Reading, of_teacher: Reading, alpha: float, normalize: bool
) -> tuple[Tensor, Tensor]:
    """Divergence of student p and teacher q over the whole vocabulary, as `self_distillation_loss.divergence` has it.

    In place: the student's logits [n, V] become p, the teacher's become u. With M = (1 - alpha) p + alpha q

        alpha = 0       D = KL(q || p)                                      u = -q                       r = -1
        alpha = 1       D = KL(p || q)                                      u = p log(p / q)             r = D
        between         D = (1 - alpha) KL(p || M) + alpha KL(q || M)       u = (1 - alpha) p log(p / M)
                                                                            r = (1 - alpha) KL(p || M)

    and the gradient of D by the student's logits is u - r p. `normalize` divides all by alpha (1 - alpha) between the
    ends.

    Args:
        student: logits [n, V].
        teacher: logits [n, V].
        of_student: what was read from the student's logits.
        of_teacher: from the teacher's.
        alpha: in [0, 1].
        normalize: see above.

    Returns:
        D [n] in nats and r [n].
    """
    if kernels := _kernels(student, teacher):
        return kernels.compare_(student, teacher, of_student, of_teacher, alpha, normalize)
    distance, factor = torch.empty_like(of_student.largest), torch.empty_like(of_student.largest)
    scale = 1 / (alpha * (1 - alpha)) if normalize and 0 < alpha < 1 else 1.0
    for rows in _strips(student):
        p, q = student[rows], teacher[rows]
        log_p, log_q = _log_probs(p, of_student, rows), _log_probs(q, of_teacher, rows)
        torch.exp(log_p, out=p)
        torch.exp(log_q, out=q)
        if alpha == 0.0:
            distance[rows] = log_q.sub_(log_p).mul_(q).sum(dim=1)
            factor[rows] = -1.0
            q.neg_()
        elif alpha == 1.0:
            distance[rows] = torch.mul(log_p.sub_(log_q), p, out=q).sum(dim=1)
            factor[rows] = distance[rows]
        else:
            log_m = torch.lerp(p, q, alpha).clamp_(min=torch.finfo(p.dtype).tiny).log_()
            far = log_q.sub_(log_m).mul_(q).sum(dim=1)
            torch.mul(log_p.sub_(log_m), p, out=q).mul_(scale * (1 - alpha))
            near = q.sum(dim=1)  # scaled (1 - alpha) KL(p || M)
            distance[rows] = near + scale * alpha * far
            factor[rows] = near
    return distance, factor


def softmax_gradient_(logits: Tensor, seen: Reading, share: Tensor, entropy_grad: Tensor | None = None) -> Tensor:
    """Turn logits [n, V] in place into share * p, minus entropy_grad * p (log p + H) if given; all else is [n]."""
    if kernels := _kernels(logits):
        return kernels.softmax_gradient_(logits, seen, share, entropy_grad)
    for rows in _strips(logits):
        log_p = logits[rows].sub_(seen.largest[rows, None]).sub_(seen.log_total[rows, None])
        if entropy_grad is None or seen.entropy is None:
            log_p.exp_().mul_(share[rows, None])
        else:
            slope = (log_p + seen.entropy[rows, None]).mul_(-entropy_grad[rows, None]).add_(share[rows, None])
            log_p.exp_().mul_(slope)
    return logits


def divergence_gradient_(
    p: Tensor, u: Tensor, seen: Reading, share: Tensor, grad: Tensor, entropy_grad: Tensor | None = None
) -> Tensor:
    """Turn p [n, V] in place into share * p + grad * u, minus entropy_grad * p (log p + H) if given."""
    if kernels := _kernels(p, u):
        return kernels.divergence_gradient_(p, u, seen, share, grad, entropy_grad)
    for rows in _strips(p):
        strip, weights = p[rows], share[rows, None]
        if entropy_grad is None or seen.entropy is None:
            strip.mul_(weights)
        else:
            slope = torch.xlogy(strip, strip).addcmul_(strip, seen.entropy[rows, None])  # p (log p + H), 0 where p is
            strip.mul_(weights).sub_(slope.mul_(entropy_grad[rows, None]))
        strip.addcmul_(u[rows], grad[rows, None])
    return p


def _log_probs(logits: Tensor, seen: Reading, rows: slice) -> Tensor:
    return (logits - seen.largest[rows, None]).sub_(seen.log_total[rows, None])


def _kernels(*tiles: Tensor) -> ModuleType | None:
    """The module of kernels that take these tiles, if there are any."""
    fit = all(tile.is_cuda and tile.dtype == torch.float32 and tile.stride(1) == 1 for tile in tiles)
    return _triton_kernels() if fit else None


@functools.cache
def _triton_kernels() -> ModuleType | None:
    """Imported with the first tile on a GPU: Triton takes seconds to load and is not installed everywhere."""
    if importlib.util.find_spec("triton") is None:
        warnings.warn("Triton is not installed: the loss takes longer on this GPU than it needs to", stacklevel=2)
        return None
    from verl.algorithms import softmax_tile_triton

    return softmax_tile_triton


def _strip_rows(logits: Tensor) -> int:
    """Rows that are worked on at a time: a GPU takes the whole tile."""
    n, size = logits.shape
    return max(1, n) if logits.is_cuda else max(1, min(n, _STRIP_BYTES // (size * logits.element_size())))


def _strips(logits: Tensor) -> Iterator[slice]:
    step = _strip_rows(logits)
    for start in range(0, len(logits), step):
        yield slice(start, start + step)
