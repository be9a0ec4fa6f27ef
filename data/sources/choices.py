"""Options of a multiple choice question, one line for each: `A: ...`."""

from __future__ import annotations

from collections.abc import Sequence
from string import ascii_uppercase


def option_lines(options: Sequence[str], labels: Sequence[str] = ascii_uppercase) -> str:
    """`A: first` and so on; `labels` may be longer than `options`."""
    return "\n".join(f"{label}: {option}" for label, option in zip(labels, options, strict=False))
