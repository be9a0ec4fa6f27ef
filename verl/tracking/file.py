"""metrics.jsonl: one JSON object for each step, in the run folder, on disk when `log` returns.

A resumed run drops the lines after its checkpoint and writes them again, so the file is the one an uninterrupted run
would have written. A new run in a used folder moves the old file to metrics.jsonl.old. Numbers that JSON cannot say
(nan, inf) become null.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TextIO

from verl.tracking.base import Outcome, RunInfo
from verl.tracking.run_folder import METRICS_FILE, write_atomically


class FileTracker:
    """Writes metrics.jsonl."""

    def __init__(self, run: RunInfo) -> None:
        self.path = run.folder / METRICS_FILE
        self._file: TextIO | None = None

    def start_from(self, step: int) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        if self.path.exists():
            if step == 0:
                os.replace(self.path, self.path.with_name(f"{METRICS_FILE}.old"))
            else:
                write_atomically(self.path, keep_until(self.path.read_text(encoding="utf-8"), step))
        self._file = self.path.open("a", encoding="utf-8")

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        if self._file is None:
            raise RuntimeError("FileTracker.log was called before start_from.")
        values = {name: value if math.isfinite(value) else None for name, value in metrics.items()}
        self._file.write(json.dumps({"step": step, **values}) + "\n")
        self._file.flush()

    def finish(self, status: Outcome) -> None:
        if self._file is not None:
            self._file.close()


def read_lines(path: Path) -> Iterator[dict[str, Any]]:
    """The lines of a metrics file; null where a number was not finite. One that is being written is passed over."""
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            yield json.loads(line)
        except json.JSONDecodeError:
            continue


def keep_until(text: str, step: int) -> str:
    """The lines up to and with `step`; a line cut off by a crash is dropped, as are all after it."""
    kept: list[str] = []
    for line in text.splitlines():
        try:
            number = json.loads(line)["step"]
        except (json.JSONDecodeError, KeyError, TypeError):
            break
        if number <= step:
            kept.append(line + "\n")
    return "".join(kept)
