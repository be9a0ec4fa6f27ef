"""Resolve interpolations leaf by leaf, so that everything that is missing is told at once, and by its name."""

from __future__ import annotations

import os
import re
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

REPOSITORY = Path(__file__).resolve().parents[2]
MISSING_VARIABLE = re.compile(r"Environment variable '(\w+)' not found")


def register_resolvers() -> None:
    """`${repository:}` is the folder that holds the package; `${join:a,b}` joins paths, an absolute one starts anew."""
    OmegaConf.register_new_resolver("repository", lambda: str(REPOSITORY), replace=True)
    OmegaConf.register_new_resolver(
        "join", lambda *parts: os.path.normpath(os.path.join(*map(str, parts))), replace=True
    )


@dataclass(frozen=True)
class Resolved:
    """Plain values, the keys that could not be resolved, and one sentence for each cause."""

    values: dict[str, Any]
    failed_keys: list[str]
    problems: list[str]


def resolve(config: DictConfig) -> Resolved:
    """Resolve what can be resolved.

    Keys below `vars` that cannot be resolved are left out without a word: they matter only where something refers to
    them.
    """
    failed: dict[str, str] = {}
    values = _plain(config, "", failed)
    keys_of: dict[str, list[str]] = defaultdict(list)
    for key, reason in failed.items():
        name = key.partition("[")[0]
        if not key.startswith("vars.") and name not in keys_of[reason]:
            keys_of[reason].append(name)
    problems = [_sentence(config, reason, keys) for reason, keys in keys_of.items() if keys]
    return Resolved(values, [key for keys in keys_of.values() for key in keys], problems)


def _plain(node: DictConfig | ListConfig, key: str, failed: dict[str, str]) -> Any:
    """Convert a node; leaves that fail are left out and entered in `failed` with the reason."""
    found: list[tuple[Any, Any]] = []
    for name in node if isinstance(node, DictConfig) else range(len(node)):
        inner = f"{key}[{name}]" if isinstance(node, ListConfig) else f"{key}.{name}" if key else str(name)
        try:
            value = node[name]  # pyright: ignore[reportIndexIssue, reportArgumentType]
            found.append((name, _plain(value, inner, failed) if isinstance(value, DictConfig | ListConfig) else value))
        except MissingMandatoryValue:
            failed[inner] = "has no value"
        except (OmegaConfBaseException, OSError) as error:
            missing = MISSING_VARIABLE.search(str(error))
            failed[inner] = missing[1] if missing else str(error).splitlines()[0]
    return dict(found) if isinstance(node, DictConfig) else [value for _, value in found]


def _sentence(config: DictConfig, reason: str, keys: list[str]) -> str:
    """One problem; for an environment variable, with the keys that replace it."""
    if not reason.isupper():
        return f"{', '.join(keys)}: {reason}"
    homes = [key for key, raw in _raw_leaves(OmegaConf.to_container(config)) if f"oc.env:{reason}" in str(raw)]
    replaced = " or ".join(f"{key}=..." for key in homes)
    return (
        f"The environment variable {reason} is not set, and {', '.join(keys)} need it: export {reason}=..., or give"
        f" {replaced} on the command line"
    )


def _raw_leaves(node: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(node, dict):
        for name, value in node.items():
            yield from _raw_leaves(value, f"{key}.{name}" if key else str(name))
    else:
        yield key, node
