"""The passes of `softmax_tile` over a float32 tile of logits [n, V] on a GPU, each as one Triton kernel.

The torch functions there say what each computes and are what runs without a GPU; on one, they read and write a tile
many times over. Here every number of the tile is loaded once and stored at most once, and no temporary is as large as a
tile. The products with the head leave little else to a step, so these passes are bound by the memory alone.

One program works on one row, block by block: a tile has hundreds of rows or more, which fills a GPU, and a row's sums
then never leave its program. Sums are kept per lane and added up at the end of the row, in float32. Rows may lie apart
(any stride), but a row's numbers are neighbours.

Without a GPU the kernels run in Triton's interpreter, which is switched on before this module is imported:

    TRITON_INTERPRET=1 python -m pytest tests/algorithms/test_softmax_tile_triton.py
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
import triton  # pyright: ignore[reportMissingImports]
import triton.language as tl  # pyright: ignore[reportMissingImports]
from torch import Tensor

if TYPE_CHECKING:
    from verl.algorithms.softmax_tile import Reading

_BLOCK = 2048
_NUM_WARPS = (
    8  # 8 numbers of a block for a thread: loads of 16 bytes, and registers left for five programs beside each other
)
_LOWEST = tl.constexpr(torch.finfo(torch.float32).min)  # not -inf: nothing is not a number then
_TINY = tl.constexpr(torch.finfo(torch.float32).tiny)


def read(logits: Tensor, needs_entropy: bool) -> tuple[Tensor, Tensor, Tensor | None]:
    """The parts of `softmax_tile.Reading`; the tile is read once."""
    largest, log_total, entropy = (logits.new_empty(len(logits)) for _ in range(3))
    rows = (logits, logits.stride(0), logits.shape[1])
    _launch(_read, logits, *rows, largest, log_total, entropy, WITH_ENTROPY=needs_entropy)
    return largest, log_total, entropy if needs_entropy else None


@triton.jit
def _read(
    logits: tl.tensor,
    stride: int,
    size: int,
    largest: tl.tensor,
    log_total: tl.tensor,
    entropy: tl.tensor,
    WITH_ENTROPY: tl.constexpr,
    BLOCK: tl.constexpr,
) -> None:
    """The sums are of exp(l - m) and (l - m) exp(l - m), with m the maximum so far; they fade whenever it rises.

    H = log sum exp(l - m) - sum (l - m) exp(l - m) / sum exp(l - m), which does not lose digits when logits are large.
    """
    row = tl.program_id(0)
    logits += row.to(tl.int64) * stride
    columns = tl.arange(0, BLOCK)
    top = tl.full((), _LOWEST, tl.float32)
    total = tl.zeros((BLOCK,), tl.float32)
    moment = tl.zeros((BLOCK,), tl.float32)
    for start in range(0, size, BLOCK):
        values = tl.load(logits + start + columns, mask=start + columns < size, other=float("-inf"))
        higher = tl.maximum(top, tl.max(values, axis=0))
        fade = tl.exp(top - higher)
        shifted = values - higher
        share = tl.exp(shifted)
        if WITH_ENTROPY:
            added = tl.where(share > 0, share * shifted, 0.0)
            moment = fade * (moment + (top - higher) * total) + added
        total = fade * total + share
        top = higher
    sum_total = tl.sum(total, axis=0)
    tl.store(largest + row, top)
    tl.store(log_total + row, tl.log(sum_total))
    if WITH_ENTROPY:
        tl.store(entropy + row, tl.log(sum_total) - tl.sum(moment, axis=0) / sum_total)


def block_maxima(logits: Tensor, width: int) -> Tensor:
    """The maximum of every whole block of `width` neighbours of a row: [n, V // width]; the tile is read once.

    Args:
        logits: [n, V].
        width: a power of two.
    """
    n, size = logits.shape
    maxima = logits.new_empty(n, size // width)
    _launch(_block_maxima, logits, logits, logits.stride(0), size // width, maxima, WIDTH=width)
    return maxima


@triton.jit
def _block_maxima(
    logits: tl.tensor,
    stride: int,
    num_blocks: int,
    maxima: tl.tensor,
    WIDTH: tl.constexpr,
    BLOCK: tl.constexpr,
) -> None:
    row = tl.program_id(0).to(tl.int64)
    logits += row * stride
    maxima += row * num_blocks
    GROUP: tl.constexpr = BLOCK // WIDTH
    group, inner = tl.arange(0, GROUP), tl.arange(0, WIDTH)
    for start in range(0, num_blocks, GROUP):
        blocks = start + group
        places = blocks[:, None] * WIDTH + inner[None, :]
        values = tl.load(logits + places, mask=blocks[:, None] < num_blocks, other=float("-inf"))
        tl.store(maxima + blocks, tl.max(values, axis=1), mask=blocks < num_blocks)


def compare_(
    student: Tensor, teacher: Tensor, of_student: Reading, of_teacher: Reading, alpha: float, normalize: bool
) -> tuple[Tensor, Tensor]:
    """`softmax_tile.compare_`: both tiles are read once and written once."""
    distance, factor = (student.new_empty(len(student)) for _ in range(2))
    _launch(
        _compare,
        student,
        *(student, student.stride(0), teacher, teacher.stride(0), student.shape[1]),
        *(of_student.largest, of_student.log_total, of_teacher.largest, of_teacher.log_total, distance, factor),
        *(alpha, 1 / (alpha * (1 - alpha)) if normalize and 0 < alpha < 1 else 1.0),
        IS_FORWARD=alpha == 0.0,
        IS_REVERSE=alpha == 1.0,
    )
    return distance, factor


@triton.jit
def _compare(
    student: tl.tensor,
    student_stride: int,
    teacher: tl.tensor,
    teacher_stride: int,
    size: int,
    largest: tl.tensor,
    log_total: tl.tensor,
    teacher_largest: tl.tensor,
    teacher_log_total: tl.tensor,
    distance: tl.tensor,
    factor: tl.tensor,
    alpha: float,
    scale: float,
    IS_FORWARD: tl.constexpr,
    IS_REVERSE: tl.constexpr,
    BLOCK: tl.constexpr,
) -> None:
    row = tl.program_id(0)
    student += row.to(tl.int64) * student_stride
    teacher += row.to(tl.int64) * teacher_stride
    row_largest, row_log_total = tl.load(largest + row), tl.load(log_total + row)
    row_teacher_largest, row_teacher_log_total = tl.load(teacher_largest + row), tl.load(teacher_log_total + row)
    columns = tl.arange(0, BLOCK)
    of_student = tl.zeros((BLOCK,), tl.float32)
    of_teacher = tl.zeros((BLOCK,), tl.float32)
    for start in range(0, size, BLOCK):
        inside = start + columns < size
        log_p = (tl.load(student + start + columns, mask=inside, other=0.0) - row_largest) - row_log_total
        log_q = tl.load(teacher + start + columns, mask=inside, other=0.0)
        log_q = (log_q - row_teacher_largest) - row_teacher_log_total
        p, q = tl.exp(log_p), tl.exp(log_q)
        if IS_FORWARD:
            u = -q
            of_teacher += tl.where(inside, q * (log_q - log_p), 0.0)
        elif IS_REVERSE:
            u = p * (log_p - log_q)
            of_student += tl.where(inside, u, 0.0)
        else:
            log_m = tl.log(tl.maximum(p + alpha * (q - p), _TINY))
            of_teacher += tl.where(inside, q * (log_q - log_m), 0.0)
            u = scale * (1 - alpha) * p * (log_p - log_m)
            of_student += tl.where(inside, u, 0.0)
        tl.store(student + start + columns, p, mask=inside)
        tl.store(teacher + start + columns, u, mask=inside)
    if IS_FORWARD:
        tl.store(distance + row, tl.sum(of_teacher, axis=0))
        tl.store(factor + row, -1.0)
    else:
        share = tl.sum(of_student, axis=0)
        tl.store(factor + row, share)
        tl.store(distance + row, share if IS_REVERSE else share + scale * alpha * tl.sum(of_teacher, axis=0))


def softmax_gradient_(logits: Tensor, seen: Reading, share: Tensor, entropy_grad: Tensor | None = None) -> Tensor:
    """`softmax_tile.softmax_gradient_`: the tile is read once and written once."""
    return _gradient_(logits, None, seen, share, None, entropy_grad)


def divergence_gradient_(
    p: Tensor, u: Tensor, seen: Reading, share: Tensor, grad: Tensor, entropy_grad: Tensor | None = None
) -> Tensor:
    """`softmax_tile.divergence_gradient_`: both tiles are read once, p is written once."""
    return _gradient_(p, u, seen, share, grad, entropy_grad)


def _gradient_(
    tile: Tensor, u: Tensor | None, seen: Reading, share: Tensor, grad: Tensor | None, entropy_grad: Tensor | None
) -> Tensor:
    """share * p + grad * u - entropy_grad * p (log p + H) in place of p, or, without u, of the logits."""
    second = tile if u is None else u
    per_row = (seen.largest, seen.log_total, share, grad, seen.entropy, entropy_grad)
    # Gradients may come expanded from one number. What is None is not used.
    vectors = (share.contiguous() if vector is None else vector.contiguous() for vector in per_row)
    _launch(
        _gradient,
        tile,
        *(tile, tile.stride(0), second, second.stride(0), tile.shape[1], *vectors),
        IS_COMPARED=u is not None,
        WITH_ENTROPY=seen.entropy is not None and entropy_grad is not None,
    )
    return tile


@triton.jit
def _gradient(
    tile: tl.tensor,
    stride: int,
    u: tl.tensor,
    u_stride: int,
    size: int,
    largest: tl.tensor,
    log_total: tl.tensor,
    share: tl.tensor,
    grad: tl.tensor,
    entropy: tl.tensor,
    entropy_grad: tl.tensor,
    IS_COMPARED: tl.constexpr,
    WITH_ENTROPY: tl.constexpr,
    BLOCK: tl.constexpr,
) -> None:
    row = tl.program_id(0)
    tile += row.to(tl.int64) * stride
    u += row.to(tl.int64) * u_stride
    row_largest, row_log_total = tl.load(largest + row), tl.load(log_total + row)
    row_share, row_grad = tl.load(share + row), tl.load(grad + row)
    row_entropy, row_entropy_grad = tl.load(entropy + row), tl.load(entropy_grad + row)
    columns = tl.arange(0, BLOCK)
    for start in range(0, size, BLOCK):
        inside = start + columns < size
        values = tl.load(tile + start + columns, mask=inside, other=0.0)
        if IS_COMPARED:
            p = values
            log_p = tl.log(tl.maximum(p, _TINY))  # p log p is 0 where p is
        else:
            log_p = (values - row_largest) - row_log_total
            p = tl.exp(log_p)
        weight = row_share - row_entropy_grad * (log_p + row_entropy) if WITH_ENTROPY else row_share
        change = weight * p
        if IS_COMPARED:
            change += row_grad * tl.load(u + start + columns, mask=inside, other=0.0)
        tl.store(tile + start + columns, change, mask=inside)


def _launch(kernel: Any, tile: Tensor, *arguments: Any, **constants: Any) -> None:
    """One program for each row of the tile, on the tile's own GPU."""
    block = min(_BLOCK, triton.next_power_of_2(tile.shape[1]))
    with torch.cuda.device_of(tile):
        kernel[(len(tile),)](*arguments, **constants, BLOCK=block, num_warps=_NUM_WARPS)
