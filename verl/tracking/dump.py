"""Rollouts and validation responses as JSON Lines, for people and for replay.

One file for each step, one line for each response: input, output, gts (ground truth), score, step, acc, feedback,
error, and every further key of the scorer. All lines of a file have the same keys: a key that a scorer left out is null
there, so columns never shift against each other.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from verl.tracking.run_folder import write_atomically
from verl.types import Sample


def dump_samples(
    folder: str | os.PathLike[str], step: int, samples: Sequence[Sample], decode: Callable[[list[int]], str]
) -> Path:
    """Write `<folder>/<step>.jsonl` (replacing it whole) and return its path.

    Args:
        decode: token ids to text; the prompt is written as the model saw it.
    """
    extras = dict.fromkeys(key for sample in samples for key in sample.reward.extras)
    lines: list[str] = []
    for sample in samples:
        record = _record(sample, step, decode)
        record |= {key: sample.reward.extras.get(key) for key in extras if key not in record}
        lines.append(json.dumps(record, ensure_ascii=False, default=_plain) + "\n")
    path = Path(folder) / f"{step}.jsonl"
    write_atomically(path, "".join(lines))
    return path


def _record(sample: Sample, step: int, decode: Callable[[list[int]], str]) -> dict[str, Any]:
    reward = sample.reward
    return {
        "input": decode(sample.prompt.token_ids),
        "output": sample.response_text,
        "gts": sample.prompt.ground_truth,
        "score": reward.score,
        "step": step,
        "acc": reward.acc,
        "feedback": reward.feedback,
        "error": reward.error,
    }


def _plain(value: Any) -> Any:
    """What JSON can say of another kind of value: an array's lists, a number's number, else its text."""
    return value.tolist() if hasattr(value, "tolist") else str(value)
