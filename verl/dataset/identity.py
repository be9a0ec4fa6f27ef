"""Which data a run trains on, so that a resumed run notices other data and can say what is different."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import pyarrow
from pyarrow import parquet


@dataclass(frozen=True)
class DataIdentity:
    """The prompts of a run, and the files they were read from."""

    fingerprint: str = ""
    """Digest of all that training sees of the prompts; it decides whether the data is the same."""
    files: dict[str, dict[str, Any]] = field(default_factory=dict)
    """By path: `rows` (None where the file is not parquet), `bytes` and `sha256`. They only explain a difference."""

    @classmethod
    def of(cls, fingerprint: str, files: Sequence[str]) -> DataIdentity:
        """Describe the files as they are now."""
        return cls(fingerprint, {f: _describe(p) for f in files if (p := Path(f).expanduser()).is_file()})

    def state_dict(self) -> dict[str, Any]:
        """Plain numbers and texts."""
        return asdict(self)

    def differences(self, files: Mapping[str, Mapping[str, Any]]) -> list[str]:
        """What is different from `files` (a saved `files`), a sentence part for each file.

        A file that only lies somewhere else is not different.
        """
        now, before = self.files, files
        hashes_now, hashes_before = ({entry["sha256"] for entry in side.values()} for side in (now, before))
        parts = [
            f"{name} has changed ({_contents(before[name])}; now {_contents(entry)})"
            for name, entry in now.items()
            if name in before and before[name]["sha256"] != entry["sha256"]
        ]
        parts += [
            f"{name} is new ({_contents(entry)})"
            for name, entry in now.items()
            if name not in before and entry["sha256"] not in hashes_before
        ]
        parts += [
            f"{name} is gone ({_contents(entry)})"
            for name, entry in before.items()
            if name not in now and entry["sha256"] not in hashes_now
        ]
        if not parts and [e["sha256"] for e in now.values()] != [e["sha256"] for e in before.values()]:
            parts.append(f"the files are not those, or not in that order ({', '.join(before)}; now {', '.join(now)})")
        return parts


def _describe(path: Path) -> dict[str, Any]:
    try:
        num_rows = parquet.read_metadata(path).num_rows
    except (OSError, pyarrow.ArrowException):  # a custom data set reads what it likes
        num_rows = None
    with open(path, "rb") as file:
        return {
            "rows": num_rows,
            "bytes": path.stat().st_size,
            "sha256": hashlib.file_digest(file, "sha256").hexdigest(),
        }


def _contents(entry: Mapping[str, Any]) -> str:
    rows = "" if entry["rows"] is None else f"{entry['rows']} rows, "
    return f"{rows}{entry['bytes']} bytes, sha256 {entry['sha256'][:12]}"
