"""The manifest of a folder: size and SHA-256 of every file, written last, so that a folder that has one is whole."""

from __future__ import annotations

import hashlib
import json
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePath
from typing import Any

from verl.checkpoint.errors import CheckpointError

MANIFEST = "manifest.json"


def write_manifest(folder: Path) -> None:
    """Describe every file of `folder` and force all of it to the disk."""
    names = sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
    with ThreadPoolExecutor() as threads:
        entries = list(threads.map(lambda name: _describe(folder / name, is_synced=True), names))
    text = json.dumps({"files": dict(zip(names, entries, strict=True))}, indent=1) + "\n"
    write_synced(folder / MANIFEST, text)
    sync_folder(folder)


def verify(folder: str | Path, with_hashes: bool = True) -> None:
    """Compare a folder with its manifest: names, sizes, hashes; and with what its `.metadata` refer to.

    Args:
        folder: the checkpoint.
        with_hashes: read all files; without, an altered file of the right size is not noticed, nor that the manifest
            was written without some of the shards.

    Raises:
        CheckpointError: no manifest, an unreadable one, or files that are missing, cut short or altered.
    """
    folder = Path(folder)
    problems = _size_problems(folder, expected := _read(folder))
    if with_hashes and not problems:
        with ThreadPoolExecutor() as threads:
            found = threads.map(lambda name: _describe(folder / name), expected)
        problems = [
            f"{name} was altered" for (name, entry), now in zip(expected.items(), found, strict=True) if entry != now
        ] or shard_problems(folder)
    if problems:
        raise CheckpointError(f"{folder} is not a usable checkpoint: {'; '.join(problems[:5])}.")


def shard_problems(folder: Path) -> list[str]:
    """What the `.metadata` of torch's checkpoints in a folder refer to and the folder does not have.

    The rank that commits a folder sees only the files that are there: one that another machine wrote to a disk of its
    own would be missed by nobody before the checkpoint is loaded.
    """
    problems: list[str] = []
    for metadata in sorted(folder.rglob(".metadata")):
        from verl.checkpoint.dcp import shard_sizes  # imports torch

        for name, least in sorted(shard_sizes(metadata.parent).items()):
            shard = metadata.with_name(name)
            size = shard.stat().st_size if shard.is_file() else None
            if size is None:
                problems.append(f"{shard.relative_to(folder)} is missing")
            elif size < least:
                problems.append(f"{shard.relative_to(folder)} has {size} bytes instead of {least} or more")
    return problems


def _size_problems(folder: Path, expected: dict[str, dict[str, Any]]) -> list[str]:
    problems: list[str] = []
    for name, entry in expected.items():
        if not (folder / name).is_file():
            problems.append(f"{name} is missing")
        elif (size := (folder / name).stat().st_size) != entry.get("bytes"):
            problems.append(f"{name} has {size} bytes instead of {entry.get('bytes')}")
    return problems


def _read(folder: Path) -> dict[str, dict[str, Any]]:
    """The entries of a manifest by file name."""
    if not folder.is_dir():
        raise CheckpointError(f"There is no checkpoint folder {folder}.")
    if not (folder / MANIFEST).is_file():
        raise CheckpointError(f"{folder} is not a usable checkpoint: it has no {MANIFEST}, so it was never completed.")
    try:
        files = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))["files"]
        entries = {str(name): dict(entry) for name, entry in files.items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{folder} is not a usable checkpoint: {MANIFEST} cannot be read ({error}).") from error
    if not entries:
        raise CheckpointError(f"{folder} is not a usable checkpoint: {MANIFEST} names no file.")
    for name in entries:
        if PurePath(name).is_absolute() or ".." in PurePath(name).parts:
            raise CheckpointError(f"{folder} is not a usable checkpoint: {MANIFEST} names {name}, outside the folder.")
    return entries


def _describe(path: Path, is_synced: bool = False) -> dict[str, Any]:
    with open(path, "rb") as file:
        if is_synced:
            os.fsync(file.fileno())
        return {"bytes": path.stat().st_size, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}


def write_synced(path: Path, text: str) -> None:
    """Write a text file and wait until it is on the disk."""
    with open(path, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


def sync_folder(folder: Path) -> None:
    """Wait until the names in a folder are on the disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
