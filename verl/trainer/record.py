"""Recordings: what each step saw, in files that a run can be trained from again (`trainer.record`, `trainer.replay`).

    recording.json        format, tokenizer, data, and the configuration without secrets
    step_000012.parquet   step 12: a row for each sample, with its response, reward and teacher prompt

Parquet keeps numbers exact and runs no code when it is read; any tool for tables shows it. What has no fixed form
(messages, ground truth, a scorer's extra keys) is JSON in a text column. A file appears whole or not at all.

A known secret is `***` in what scorers said and in the teacher's texts. A replay trains on token ids, which are kept as
they were: it learns the same, and who quotes a key in feedback has it in the ids of the teacher's prompt.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from verl.config.secrets import hide_known
from verl.self_distillation.reprompt import Reprompt
from verl.self_distillation.sections import Sections
from verl.tracking.dump import plain
from verl.tracking.run_folder import write_atomically
from verl.trainer.sampling import Batch
from verl.types import Prompt, Reward, Rollout, Sample

FORMAT = 1
IDENTITY_FILE = "recording.json"
STEP_FILE = re.compile(r"step_(\d{6,})\.parquet")
TOKENS = pa.list_(pa.int32())
COLUMNS = pa.schema(
    {
        "uid": pa.string(),
        "prompt_index": pa.int64(),
        "messages": pa.string(),
        "prompt_ids": TOKENS,
        "data_source": pa.string(),
        "ground_truth": pa.string(),
        "extra_info": pa.string(),
        "request_id": pa.int64(),
        "sequence_ids": TOKENS,
        "response_ids": TOKENS,
        "log_probs": pa.list_(pa.float64()),
        "response_mask": pa.list_(pa.int8()),
        "finish_reason": pa.string(),
        "weight_version": pa.int64(),
        "response_text": pa.string(),
        "score": pa.float64(),
        "acc": pa.float64(),
        "feedback": pa.string(),
        "extras": pa.string(),
        "error": pa.string(),
        "teacher_prompt_ids": TOKENS,  # null in every row: the algorithm had no teacher
        "reprompt": pa.string(),
    }
)


class RecordingError(ValueError):
    """A recording that cannot be read, or does not fit the run."""


@dataclass(frozen=True)
class Identity:
    """What a recording was made of."""

    tokenizer: str
    """Digest of its vocabulary and chat template."""
    vocab_size: int
    data: str
    """Fingerprint of the training prompts."""
    model: str
    """Path, for messages: weights are not part of a recording."""


def tokenizer_digest(tokenizer: Any) -> str:
    """Digest of what a tokenizer makes of texts and chats."""
    known = [sorted(tokenizer.get_vocab().items()), getattr(tokenizer, "chat_template", None)]
    return hashlib.sha256(json.dumps(known).encode()).hexdigest()


def write_identity(folder: Path, identity: Identity, config: Mapping[str, Any], **more: Any) -> None:
    """Write `recording.json`. `config` must hold no secrets any more."""
    record = {"format": FORMAT, **asdict(identity), **more, "config": config}
    write_atomically(folder / IDENTITY_FILE, json.dumps(record, indent=2, default=str) + "\n")


def read_identity(folder: Path) -> dict[str, Any]:
    """`recording.json`. Raises RecordingError when there is none, or one of another format."""
    try:
        record = json.loads((folder / IDENTITY_FILE).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise RecordingError(f"{folder} is not a recording: it has no {IDENTITY_FILE}.") from None
    except ValueError as error:
        raise RecordingError(f"{folder / IDENTITY_FILE} cannot be read ({error}).") from error
    if record.get("format") != FORMAT:
        raise RecordingError(f"{folder} has format {record.get('format')}; this version reads format {FORMAT}.")
    return record


def recorded_steps(folder: Path) -> dict[int, Path]:
    """The files of a recording by step, ascending."""
    found = {int(match[1]): path for path in folder.glob("step_*") if (match := STEP_FILE.fullmatch(path.name))}
    return dict(sorted(found.items()))


def write_step(folder: Path, number: int, batch: Batch) -> Path:
    """Write the file of one step, replacing it whole."""
    folder.mkdir(parents=True, exist_ok=True)
    reprompts = batch.reprompts or [None] * len(batch.samples)
    hide = hide_known()
    rows = [_to_row(sample, reprompt, hide) for sample, reprompt in zip(batch.samples, reprompts, strict=True)]
    table = pa.Table.from_pylist(rows, schema=COLUMNS.with_metadata({"step": str(number)}))
    path = folder / f"step_{number:06d}.parquet"
    temporary = path.with_name(f".{path.name}.tmp")
    pq.write_table(table, temporary, compression="zstd")
    os.replace(temporary, path)
    return path


def read_step(path: Path, number: int) -> Batch:
    """What `write_step` wrote. Raises RecordingError for a file that is damaged or of another step."""
    try:
        table = pq.read_table(path)
        rows = table.cast(COLUMNS).to_pylist()
        samples = [_sample(row) for row in rows]
        has_teacher = bool(rows) and rows[0]["reprompt"] is not None
        batch = Batch(samples, [_reprompt(row) for row in rows] if has_teacher else None)
    except (pa.ArrowException, OSError, ValueError, KeyError, TypeError) as error:
        raise RecordingError(f"{path} cannot be read: it is damaged or no file of a recording ({error}).") from error
    if (found := (table.schema.metadata or {}).get(b"step", b"?").decode()) != str(number):
        raise RecordingError(f"{path} holds step {found}, not step {number}: it was renamed or copied.")
    return batch


def _to_row(sample: Sample, reprompt: Reprompt | None, hide: Callable[[Any], Any]) -> dict[str, Any]:
    prompt, rollout, reward = sample.prompt, sample.rollout, sample.reward
    row: dict[str, Any] = {
        "uid": sample.uid,
        "prompt_index": prompt.index,
        "messages": _dumps(prompt.messages),
        "prompt_ids": prompt.token_ids,
        "data_source": prompt.data_source,
        "ground_truth": _dumps(prompt.ground_truth),
        "extra_info": _dumps(prompt.extra_info),
        "request_id": rollout.request_id,
        "sequence_ids": None if rollout.prompt_ids == prompt.token_ids else rollout.prompt_ids,
        "response_ids": rollout.response_ids,
        "log_probs": rollout.log_probs,
        "response_mask": rollout.response_mask,
        "finish_reason": rollout.finish_reason,
        "weight_version": rollout.weight_version,
        "response_text": sample.response_text,
        "score": reward.score,
        "acc": reward.acc,
        "feedback": hide(reward.feedback),
        "extras": _dumps(reward.extras, hide),
        "error": hide(reward.error),
        "teacher_prompt_ids": None,
        "reprompt": None,
    }
    if reprompt is not None:
        row["teacher_prompt_ids"] = reprompt.token_ids
        shown = {"messages": reprompt.messages, "sections": asdict(reprompt.sections)}
        row["reprompt"] = _dumps(shown | {"is_shortened": reprompt.is_shortened}, hide)
    return row


def _sample(row: dict[str, Any]) -> Sample:
    return Sample(
        uid=row["uid"],
        prompt=Prompt(
            index=row["prompt_index"],
            messages=json.loads(row["messages"]),
            token_ids=row["prompt_ids"],
            data_source=row["data_source"],
            ground_truth=json.loads(row["ground_truth"]),
            extra_info=json.loads(row["extra_info"]),
        ),
        rollout=Rollout(
            request_id=row["request_id"],
            prompt_ids=row["prompt_ids"] if row["sequence_ids"] is None else row["sequence_ids"],
            response_ids=row["response_ids"],
            log_probs=row["log_probs"],
            response_mask=row["response_mask"],
            finish_reason=row["finish_reason"],
            weight_version=row["weight_version"],
        ),
        response_text=row["response_text"],
        reward=Reward(row["score"], row["acc"], row["feedback"], json.loads(row["extras"]), row["error"]),
    )


def _reprompt(row: dict[str, Any]) -> Reprompt:
    shown = json.loads(row["reprompt"])
    sections = Sections(**shown["sections"])
    return Reprompt(shown["messages"], row["teacher_prompt_ids"], sections, shown["is_shortened"])


def _dumps(value: Any, hide: Callable[[Any], Any] = lambda value: value) -> str:
    return json.dumps(hide(value), ensure_ascii=False, default=lambda inner: hide(plain(inner)))
