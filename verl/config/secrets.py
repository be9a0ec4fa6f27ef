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


def secrets_of(config: Any = None) -> set[str]:
    """Values of the environment's secrets, and of keys of a nested configuration that are named like secrets."""
    found = {value for name, value in os.environ.items() if is_secret_name(name)}
    found |= {str(value) for name, value in _leaves(config) if is_secret_name(name) and value is not None}
    return found - {"", HIDDEN}


def redact(value: Any, secrets: set[str] | None = None) -> Any:
    """A copy of nested mappings, sequences and texts with `***` in place of secrets.

    Args:
        value: plain values; a `key=value` text whose key is named like a secret is one too.
        secrets: values to look for; None: `secrets_of(value)`.
    """
    secrets = secrets_of(value) if secrets is None else secrets
    if isinstance(value, Mapping):
        return {
            name: HIDDEN if is_secret_name(str(name)) and _is_leaf(inner) else redact(inner, secrets)
            for name, inner in value.items()
        }
    if isinstance(value, list | tuple):
        return [redact(inner, secrets) for inner in value]
    if isinstance(value, str):
        return _redact_text(value, secrets)
    return value


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
