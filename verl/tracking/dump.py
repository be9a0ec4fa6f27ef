"""Rollouts and validation responses as JSON Lines, for people and for replay.

One file for each step, one line for each response: input, output, gts (ground truth), score, step, acc, feedback,
error, in training also teacher_prompt (what the teacher read instead of the input), and every further key of the
scorer. All lines of a file have the same keys: a key that a scorer left out is null there, so columns never shift.
Known secrets are `***` wherever they stand: a scorer's traceback may quote the key it was refused with.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from verl.config.secrets import hide_known
from verl.tracking.run_folder import write_atomically
from verl.types import Sample


def dump_samples(
    folder: str | os.PathLike[str],
    step: int,
    samples: Sequence[Sample],
    decode: Callable[[list[int]], str],
    teacher_prompts: Sequence[list[int]] | None = None,
) -> Path:
    """Write `<folder>/<step>.jsonl` (replacing it whole) and return its path.

    Args:
        decode: token ids to text; prompts are written as the models saw them.
        teacher_prompts: one for each sample, empty where it has no target; None leaves the key out.
    """
    hide = hide_known()
    extras = dict.fromkeys(key for sample in samples for key in sample.reward.extras)
    lines: list[str] = []
    for index, sample in enumerate(samples):
        record = _record(sample, step, decode)
        if teacher_prompts is not None:
            record["teacher_prompt"] = decode(ids) if (ids := teacher_prompts[index]) else ""
        record |= {key: sample.reward.extras.get(key) for key in extras if key not in record}
        lines.append(json.dumps(hide(record), ensure_ascii=False, default=lambda value: hide(plain(value))) + "\n")
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


def plain(value: Any) -> Any:
    """What JSON can say of another kind of value: an array's lists, a number's number, else its text."""
    return value.tolist() if hasattr(value, "tolist") else str(value)
