"""What must not be written down: values of keys and environment variables that are named like secrets.

Everything a run writes (configuration, command, messages of failures, recordings) passes through here. The name
decides, because a value does not show what it is: HF_TOKEN, WANDB_API_KEY, AWS_SECRET_ACCESS_KEY, db_password.
A secret is also looked for inside of other texts, such as a command line or an error.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from typing import Any

HIDDEN = "***"
NAME = re.compile(
    r"(^|[_\-.])(token|api_?key|(secret|private)?_?access_?key|private_?key|secret(_?key)?|password|passwd|credentials?)$",
    re.IGNORECASE,
)
SHORTEST = 6
"""Shorter values are hidden only where they stand alone: inside of texts they would be found by chance."""


def is_secret_name(name: str) -> bool:
    """Whether a key or an environment variable is named like a secret."""
    return NAME.search(name) is not None


_told: set[str] = set()


def learn(config: Any) -> None:
    """Remember the values of a nested configuration's keys that are named like secrets, until the process ends."""
    _told.update(_named_in(config))


def redact(value: Any) -> Any:
    """A copy of nested mappings, sequences and texts with `***` in place of secrets.

    Secrets are what the environment and `learn` know, and what `value` itself has under their names: in a mapping, or
    in a text like `api_key=...`.
    """
    known = {text for name, text in os.environ.items() if is_secret_name(name)} | _told | _named_in(value)
    return _redact(value, known - {"", HIDDEN})


def _named_in(config: Any) -> set[str]:
    return {str(value) for name, value in _leaves(config) if is_secret_name(name) and value is not None}


def _redact(value: Any, secrets: set[str]) -> Any:
    if isinstance(value, Mapping):
        return {
            name: HIDDEN if is_secret_name(str(name)) and _is_leaf(inner) else _redact(inner, secrets)
            for name, inner in value.items()
        }
    if isinstance(value, list | tuple):
        return [_redact(inner, secrets) for inner in value]
    return _redact_text(value, secrets) if isinstance(value, str) else value


def _redact_text(text: str, secrets: set[str]) -> str:
    if text in secrets:
        return HIDDEN
    for secret in sorted(secrets, key=len, reverse=True):  # a secret may begin like a longer one
        if len(secret) >= SHORTEST:
            text = text.replace(secret, HIDDEN)
    key, sign, value = text.partition("=")
    if sign and value and is_secret_name(key) and " " not in key:
        return f"{key}={HIDDEN}"
    return text


def _is_leaf(value: Any) -> bool:
    return value is not None and not isinstance(value, Mapping | list | tuple)


def _leaves(node: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(node, Mapping):
        for key, value in node.items():
            yield from _leaves(value, str(key))
    elif isinstance(node, list | tuple):
        for value in node:
            yield from _leaves(value, name)
    else:
        yield name, node
