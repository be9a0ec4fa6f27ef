"""Rows to what a forward runs: the one border between lists of token ids and tensors.

Packed, a micro-batch is one line of tokens without padding, each with its position. Rows that begin alike (a group's
responses to one prompt) share the tokens of that beginning: embedding, projections, norms and MLP run once for every
distinct prefix, which changes nothing, because in a causal model a state depends on its prefix alone. Only attention
needs to know which tokens form a row; `PackLayout` tells it.

Padded, rows stand below each other, filled up on the right, under plain causal attention without a mask: a token never
sees what comes after it, so padding cannot change a real one. It is for models whose layers mix tokens in a way that
`verl.models.packed_attention` does not know.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from verl.models.sequence_parallel import SequenceGroup, StateRoutes, TokenSplit
from verl.prefixes import prefix_order
from verl.protocol import Row


@dataclass(frozen=True)
class Pack:
    """A micro-batch as the model sees it."""

    input_ids: Tensor
    """[1, N] packed, or [B, S] padded; over several ranks the own part [1, length] of a packed line."""
    position_ids: Tensor
    """Of the same shape: the place of each token in its row, from 0."""
    layout: PackLayout | None
    """Which packed tokens form a row; None when padded."""
    predictors: Tensor
    """[M] Index into the flattened input of the hidden state that predicts each response token, row after row in the
    order given. Rows that share a prompt share the state that predicts their first token."""
    routes: StateRoutes | None = None
    """Over several ranks: takes the place of `predictors`, since their states are elsewhere."""

    def states(self, hidden: Tensor) -> Tensor:
        """The hidden states [M, H] that predict the response tokens, of those of the input, flattened to [N, H].

        Over several ranks those of the rows that are this rank's (`SequenceGroup.own`); an exchange of the group.
        """
        if self.routes is None:
            return functional.embedding(self.predictors, hidden)
        return self.routes.deliver(hidden)

    @property
    def num_tokens(self) -> int:
        """Tokens the forward runs, padding included."""
        return self.input_ids.numel()


@dataclass(frozen=True)
class Line:
    """One row that attention runs on: tokens of the packed line, in the row's order.

    A row that another one merely continues has no line of its own; it is the beginning of the other's.
    """

    tokens: np.ndarray
    """[length] Indices into the packed tokens."""
    num_new: int
    """How many at the end belong to no earlier line. They stand side by side in the packed line, after the new tokens
    of the lines before."""


@dataclass(frozen=True)
class Rectangle:
    """Some lines of similar length, as attention takes them: queries [B, L_q], keys and values [B, L]."""

    lines: Sequence[Line]
    is_whole: bool
    """Whether every token of a line asks (L_q = L); otherwise only its new ones do."""

    num_queries: int
    """L_q"""
    num_keys: int
    """L"""

    def start(self, line: Line) -> int:
        """The place in the line of its first query."""
        return 0 if self.is_whole else len(line.tokens) - line.num_new


@dataclass(frozen=True)
class PaddedLines:
    """The lines as rectangles, each padded on the right with token 0: a few, so that little is padding."""

    rectangles: tuple[Rectangle, ...]
    queries: Tensor
    """[sum of B * L_q] The packed token at each place of the rectangles of queries, one after another."""
    keys: Tensor
    """[sum of B * L] The same for keys and values."""
    places: Tensor
    """[N] For every packed token one place among the queries where it stands."""


@dataclass(frozen=True)
class JoinedLines:
    """The lines one after another, for attention that takes variable lengths: queries are the new tokens alone."""

    keys: Tensor
    """[sum of lengths] The packed token at each place."""
    query_starts: Tensor
    """[number of lines + 1] int32: bounds of the lines' new tokens among the packed ones."""
    key_starts: Tensor
    """[number of lines + 1] int32: bounds of the lines in `keys`."""
    max_queries: int
    max_keys: int


class PackLayout:
    """Which packed tokens form a row. Built for a pack, and read by every layer's attention.

    It is no dataclass, because FSDP rebuilds dataclasses among a layer's arguments, and with them what is kept here.
    """

    def __init__(self, lines: Sequence[Line], num_tokens: int, device: torch.device) -> None:
        self.lines = lines
        self.num_tokens = num_tokens
        self.device = device
        self.split: TokenSplit | None = None
        """How the line is cut over several ranks; attention alone sees all of it."""
        self._masks: dict[tuple[int, int | None, torch.dtype], Tensor] = {}

    @cached_property
    def padded(self) -> PaddedLines:
        """The lines as rectangles."""
        rectangles = _rectangles(self.lines)
        queries = [np.zeros((len(r.lines), r.num_queries), dtype=np.int64) for r in rectangles]
        keys = [np.zeros((len(r.lines), r.num_keys), dtype=np.int64) for r in rectangles]
        places = np.empty(self.num_tokens, dtype=np.int64)
        first = 0
        for rectangle, asking, seen in zip(rectangles, queries, keys, strict=True):
            for line, own_queries, own_keys in zip(rectangle.lines, asking, seen, strict=True):
                asked = line.tokens[rectangle.start(line) :]
                own_queries[: len(asked)] = asked
                own_keys[: len(line.tokens)] = line.tokens
                places[asked[-line.num_new :]] = np.arange(first + len(asked) - line.num_new, first + len(asked))
                first += len(own_queries)
        return PaddedLines(
            rectangles=rectangles,
            queries=self._tensor(np.concatenate([part.ravel() for part in queries])),
            keys=self._tensor(np.concatenate([part.ravel() for part in keys])),
            places=self._tensor(places),
        )

    @cached_property
    def joined(self) -> JoinedLines:
        """The lines one after another."""
        num_queries = [line.num_new for line in self.lines]
        num_keys = [len(line.tokens) for line in self.lines]
        return JoinedLines(
            keys=self._tensor(np.concatenate([line.tokens for line in self.lines])),
            query_starts=self._tensor(np.cumsum([0, *num_queries], dtype=np.int32)),
            key_starts=self._tensor(np.cumsum([0, *num_keys], dtype=np.int32)),
            max_queries=max(num_queries),
            max_keys=max(num_keys),
        )

    def mask(self, rectangle: Rectangle, window: int | None, dtype: torch.dtype) -> Tensor | None:
        """What is added to the scores of a rectangle, [B or 1, 1, L_q, L]: 0 where a query sees a key, else -inf.

        Args:
            rectangle: one of `padded`.
            window: how many tokens a token sees, itself and those before it; None: all.
            dtype: of the scores.

        Returns:
            None where it is the plain causal mask of a square.
        """
        if window is not None and window >= rectangle.num_keys:
            window = None
        if rectangle.is_whole and window is None:
            return None
        name = (id(rectangle), window, dtype)
        if name not in self._masks:
            starts = [0] if rectangle.is_whole else [rectangle.start(line) for line in rectangle.lines]
            here = torch.tensor(starts)[:, None, None] + torch.arange(rectangle.num_queries)[:, None]
            # Padding asks too, and must see something, or its softmax and with it every gradient is nan.
            here = here.clamp(max=rectangle.num_keys - 1)
            there = torch.arange(rectangle.num_keys)
            hidden = there > here
            if window is not None:
                hidden |= there <= here - window
            mask = torch.zeros(hidden.shape, dtype=dtype).masked_fill_(hidden, -torch.inf)
            self._masks[name] = mask[:, None].to(self.device)
        return self._masks[name]

    def _tensor(self, values: np.ndarray) -> Tensor:
        return torch.from_numpy(values).to(self.device)


def _rectangles(lines: Sequence[Line]) -> tuple[Rectangle, ...]:
    """Cut lines into few rectangles: apart where most of a line is not new, and where it is less than half as long."""
    found: list[Rectangle] = []
    for is_whole in (True, False):
        chosen = [line for line in lines if (2 * line.num_new > len(line.tokens)) is is_whole]
        chosen.sort(key=lambda line: -len(line.tokens))
        start = 0
        for end in range(1, len(chosen) + 1):
            if end == len(chosen) or 2 * len(chosen[end].tokens) < len(chosen[start].tokens):
                longest, most = len(chosen[start].tokens), max(line.num_new for line in chosen[start:end])
                found.append(Rectangle(chosen[start:end], is_whole, longest if is_whole else most, longest))
                start = end
    return tuple(found)


def pack(
    rows: Sequence[Row],
    device: torch.device,
    *,
    for_teacher: bool = False,
    remove_padding: bool = True,
    share_prefixes: bool = True,
    group: SequenceGroup | None = None,
) -> Pack:
    """Make one forward of rows.

    Args:
        rows: the rows; none at all gives one token that predicts nothing, because a rank without work still has to take
            part in the collectives of the forward.
        device: where the tensors go.
        for_teacher: put the reprompted prompt before the response, instead of the row's own.
        remove_padding: pack; otherwise pad.
        share_prefixes: run the tokens of a common beginning once. Off, every row runs all of its tokens.
        group: the ranks that run this forward together (packed rows only); None: this one alone.

    Raises:
        ValueError: a row has an empty prompt, so that nothing predicts its first token.
    """
    prompts = [row.teacher_prompt_ids if for_teacher else row.prompt_ids for row in rows]
    for row, prompt in zip(rows, prompts, strict=True):
        if not prompt:
            which = "teacher prompt" if for_teacher else "prompt"
            raise ValueError(f"Row {row.index} has an empty {which}; a response needs at least one token before it.")
    sequences = [row.sequence(for_teacher) for row in rows] or [[0]]
    if remove_padding:
        input_ids, position_ids, layout, tokens = _in_line(sequences, device, share_prefixes)
    else:
        input_ids, position_ids, layout, tokens = _in_rectangle(sequences)
    # The state at a token predicts the next one.
    predictors = [
        own[len(prompt) - 1 :][: len(row.response_ids)] for prompt, row, own in zip(prompts, rows, tokens, strict=False)
    ]
    routes = None
    if group is not None and group.size > 1:
        assert layout is not None, "padded rows are not cut over ranks"
        layout.split = TokenSplit(group, layout.num_tokens)
        input_ids, position_ids = layout.split.part(input_ids), layout.split.part(position_ids)
        by_rank = [
            _joined([places for places, row in zip(predictors, rows, strict=True) if row.loss_rank == rank])
            for rank in range(group.size)
        ]
        routes = StateRoutes(layout.split, by_rank, device)
    return Pack(
        input_ids=torch.from_numpy(input_ids).to(device),
        position_ids=torch.from_numpy(position_ids).to(device),
        layout=layout,
        predictors=torch.from_numpy(_joined(predictors)).to(device),
        routes=routes,
    )


def _joined(places: Sequence[np.ndarray]) -> np.ndarray:
    return np.concatenate([np.empty(0, dtype=np.int64), *places])


Placed = tuple[np.ndarray, np.ndarray, PackLayout | None, list[np.ndarray]]
"""Input ids, position ids, layout, and for each sequence the indices of its tokens in the flattened input."""


def _in_line(sequences: list[list[int]], device: torch.device, share_prefixes: bool) -> Placed:
    """Append the new tokens of each sequence, those with a common beginning one after another."""
    order, shared = prefix_order(sequences) if share_prefixes else (range(len(sequences)), [0] * len(sequences))
    ids: list[np.ndarray] = []
    positions: list[np.ndarray] = []
    tokens = [np.empty(0, dtype=np.int64)] * len(sequences)
    lines: list[Line] = []
    before = tokens[0]
    num_tokens = num_in_lines = 0
    for place, (index, common) in enumerate(zip(order, shared, strict=True)):
        length = len(sequences[index])
        ids.append(np.array(sequences[index][common:], dtype=np.int64))
        positions.append(np.arange(common, length))
        before = np.concatenate([before[:common], np.arange(num_tokens, num_tokens + length - common)])
        tokens[index] = before
        num_tokens += length - common
        is_continued = place + 1 < len(shared) and shared[place + 1] == length
        if not is_continued:
            lines.append(Line(before, num_tokens - num_in_lines))
            num_in_lines = num_tokens
    layout = PackLayout(lines, num_tokens, device)
    return np.concatenate(ids)[None], np.concatenate(positions)[None], layout, tokens


def _in_rectangle(sequences: list[list[int]]) -> Placed:
    """Fill up with token 0 on the right to [B, S]."""
    height, width = len(sequences), max(map(len, sequences))
    ids = np.zeros((height, width), dtype=np.int64)
    for row, sequence in zip(ids, sequences, strict=True):
        row[: len(sequence)] = sequence
    positions = np.broadcast_to(np.arange(width), ids.shape).copy()
    tokens = [number * width + np.arange(len(sequence)) for number, sequence in enumerate(sequences)]
    return ids, positions, None, tokens
