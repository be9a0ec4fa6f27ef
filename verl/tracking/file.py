"""metrics.jsonl: one JSON object for each step, in the run folder, on disk when `log` returns.

A resumed run drops the lines after its checkpoint and writes them again, so the file is the one an uninterrupted run
would have written. A new run in a used folder moves the old file to metrics.jsonl.old. Numbers that JSON cannot say
(nan, inf) become null. Lines that could not be written (disk full) are kept, and written with the next one.
"""

from __future__ import annotations

import contextlib
import io
import json
import math
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from verl.tracking.base import Outcome, RunInfo
from verl.tracking.run_folder import METRICS_FILE, write_atomically


class FileTracker:
    """Writes metrics.jsonl. After an error any method may be called again: nothing that was logged is forgotten."""

    def __init__(self, run: RunInfo) -> None:
        self.path = run.folder / METRICS_FILE
        self._unwritten: list[bytes] = []
        self._start: int | None = None
        """Step to start from, until that is done."""
        self._size: int | None = None
        """Bytes of the file's whole lines; None: not started."""
        self._file: io.FileIO | None = None
        """None after an error: the file is opened anew."""

    def start_from(self, step: int) -> None:
        self._start = step
        self._write()

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        if self._start is None and self._size is None:
            raise RuntimeError("FileTracker.log was called before start_from.")
        values = {name: value if math.isfinite(value) else None for name, value in metrics.items()}
        self._unwritten.append((json.dumps({"step": step, **values}) + "\n").encode())
        self._write()

    def finish(self, status: Outcome) -> None:
        try:
            if self._unwritten:
                self._write()
        except OSError as error:
            first, last = (json.loads(self._unwritten[index])["step"] for index in (0, -1))
            raise OSError(f"{self.path} lacks steps {first} to {last}, which could not be written: {error}") from error
        finally:
            self._close()

    def _write(self) -> None:
        """Bring the file up to date."""
        try:
            if self._start is not None:
                self._size = self._make_ready(self._start)
                self._start = None
            file = self._file = self._file or self._open()
            while self._unwritten:
                left = memoryview(self._unwritten[0])
                while left:  # a disk takes what still fits, and refuses the rest
                    left = left[file.write(left) :]
                self._size = file.tell()
                del self._unwritten[0]
        except BaseException:
            self._close()
            if self._size is not None:
                with contextlib.suppress(OSError):  # else it is cut off before the next line
                    self._open().close()
            raise

    def _make_ready(self, step: int) -> int:
        self._close()
        self.path.parent.mkdir(parents=True, exist_ok=True)
        if self.path.exists():
            if step == 0:
                os.replace(self.path, self.path.with_name(f"{METRICS_FILE}.old"))
            else:
                write_atomically(self.path, keep_until(self.path.read_text(encoding="utf-8"), step))
        return self.path.stat().st_size if self.path.exists() else 0

    def _open(self) -> io.FileIO:
        """Open the file for a next line; what is there of a broken one is cut off."""
        file = io.FileIO(self.path, "a")
        if file.tell() > (self._size or 0):
            file.truncate(self._size)
        return file

    def _close(self) -> None:
        file, self._file = self._file, None
        if file is not None:
            file.close()


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
