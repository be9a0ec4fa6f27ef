"""Fit a teacher prompt into its token limit by cutting only the texts that were put into it.

One number decides the cut: the most characters that any text may keep. It shortens the longest text first, never
touches a text that is short already, and can be found by bisection, so that a prompt is tokenised about 15 times, not
once for each character. Template, question and system message are outside the texts and so are never cut.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

Side = Literal["left", "right"]


@dataclass(frozen=True)
class Fitted:
    """A prompt that fits, and what it cost."""

    texts: list[str]
    token_ids: list[int]
    is_shortened: bool


def cut(text: str, num_characters: int, side: Side) -> str:
    """Keep `num_characters` of a text: `right` drops its end, `left` its start."""
    if side == "right":
        return text[:num_characters]
    return text[max(len(text) - num_characters, 0) :]


def fit(texts: list[str], encode: Callable[[list[str]], list[int]], limit: int, side: Side) -> Fitted | None:
    """Shorten texts, the longest first, until the prompt made of them has at most `limit` tokens.

    Args:
        texts: demonstration, feedback and attempt; empty where there is none.
        encode: makes the whole prompt of the texts and returns its token ids.
        limit: most tokens of the prompt.
        side: which end of a text is dropped.

    Returns:
        The prompt; keeping one more character of the longest texts would not fit. None when the prompt is too long
        even with empty texts.
    """
    token_ids = encode(texts)
    if len(token_ids) <= limit:
        return Fitted(texts, token_ids, is_shortened=False)
    best = None
    low, high = 0, max(map(len, texts), default=0)  # characters: `high` is known to be too many
    keep = 0  # first question: does it fit at all?
    while low < high:
        kept = [cut(text, keep, side) for text in texts]
        token_ids = encode(kept)
        if len(token_ids) <= limit:
            best, low = Fitted(kept, token_ids, is_shortened=True), keep + 1
        else:
            high = keep
        keep = (low + high) // 2
    return best
