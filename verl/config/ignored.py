"""Take keys of verl that have no effect here out of a configuration, and say why.

Scripts written for verl should start unchanged. So a key that our dataclasses lack, and whose value cannot change the
result, is taken out of the tree with one note; a value that would change the result in a way that we do not offer is a
problem, never silence. Every other unknown key is left for `verl.config.node` to answer. The table is `verl_keys`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from verl.config.node import show
from verl.config.verl_keys import IGNORED


def take_ignored(values: Mapping[str, Any]) -> tuple[dict[str, Any], list[str], list[str]]:
    """Take keys without effect out of a nested tree.

    Returns the rest, one note for each key taken out, and one problem for each value that cannot be passed over.
    """
    notes: list[str] = []
    problems: list[str] = []

    def walk(node: Mapping[str, Any], prefix: str) -> dict[str, Any]:
        rest: dict[str, Any] = {}
        for name, value in node.items():
            key = f"{prefix}{name}"
            row = IGNORED.get(key)
            if row is None:
                rest[name] = walk(value, f"{key}.") if isinstance(value, Mapping) else value
            elif row.harmless(value):
                notes.append(f"{_spell(key, value)} has no effect here: {row.reason}.")
            else:
                problems.append(f"{_spell(key, value)}: is not offered: {row.reason}. Take the key out.")
        return rest

    return walk(values, ""), notes, problems


def _spell(key: str, value: Any) -> str:
    """`key=value`, or the keys below for a group."""
    if not isinstance(value, Mapping):
        return f"{key}={show(value)}"
    return ", ".join(_spell(f"{key}.{name}", inner) for name, inner in value.items()) or key
