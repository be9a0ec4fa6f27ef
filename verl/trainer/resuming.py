"""What is different between a checkpoint and the run that goes on from it: said in one line, or refused."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from verl.checkpoint import CheckpointError
from verl.dataset import DataIdentity

logger = logging.getLogger(__name__)

EXPECTED = {"trainer.resume_mode", "trainer.resume_from_path", "trainer.default_local_dir"}
"""Keys that differ because a run is resumed, not because it is another one."""
SHAPES_DATA = ("data.", "actor_rollout_ref.model.", "model.")
"""Keys that may explain other prompts from the same files: filters, lengths, template, tokenizer."""


def note_changes(saved: Path, present: Path) -> list[str]:
    """Log how this run's resolved configuration differs from the checkpoint's, and return it, `key: old -> new` each.

    Args:
        saved: config.yaml of the checkpoint.
        present: config.yaml of the run folder.
    """
    if not (saved.is_file() and present.is_file()):
        return []
    before, now = (_flatten(yaml.safe_load(path.read_text(encoding="utf-8"))) for path in (saved, present))
    changes = [
        f"{key}: {_show(before, key)} -> {_show(now, key)}"
        for key in sorted(before.keys() | now.keys())
        if before.get(key) != now.get(key) and key not in EXPECTED
    ]
    if changes:
        logger.info("Other settings than the checkpoint was saved with: %s", "; ".join(changes))
    return changes


def check_data(path: Path, state: Mapping[str, Any], data: DataIdentity, changes: list[str]) -> None:
    """Refuse a checkpoint of other training data: its sampler counts rows that are not these.

    Args:
        path: the checkpoint.
        state: what the driver saved in it.
        data: of this run.
        changes: `note_changes`.

    Raises:
        CheckpointError: names the files that changed and how, or the settings that may be the reason.
    """
    saved = state["data"]
    if saved["fingerprint"] == data.fingerprint:
        return
    what = data.differences(saved["files"]) if saved["files"] else []
    if not what:
        settings = [change for change in changes if change.startswith(SHAPES_DATA)]
        same = "the files are the same, but their prompts are not" if saved["files"] else "their prompts are others"
        what = [f"{same} ({'; '.join(settings) or 'the tokenizer or its chat template must have changed'})"]
    raise CheckpointError(
        f"{path} was written while training on other data than data.train_files gives now: {'; '.join(what)}. Use the"
        " data and settings of then, or start anew with trainer.resume_mode=disable in another run folder."
    )


def _flatten(value: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(value, Mapping) or not value:
        return {prefix: value}
    flat: dict[str, Any] = {}
    for key, inner in value.items():
        flat |= _flatten(inner, f"{prefix}.{key}" if prefix else str(key))
    return flat


def _show(values: Mapping[str, Any], key: str) -> str:
    if key not in values:
        return "(no such key)"
    return "null" if values[key] is None else str(values[key])
