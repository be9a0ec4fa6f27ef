"""What must not be written down: values of keys and environment variables that are named like secrets.

Everything a run writes (configuration, command, messages of failures, dumps, recordings) passes through here. The name
decides, because a value does not show what it is: HF_TOKEN, OPENAI_KEY, X-API-Key, AWS_SECRET_ACCESS_KEY, db_password.
A secret is also looked for inside of other texts, such as a command line or an error.
"""

from __future__ import annotations

import functools
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any
from urllib.parse import quote

HIDDEN = "***"
SHORTEST = 6
"""Shorter values are hidden only where they stand alone: inside of texts they would be found by chance."""
WORD_END = re.compile(r"[^A-Za-z0-9]+|(?<=[a-z0-9])(?=[A-Z])")
SECRET_WORD = re.compile(
    r"token|secrets?|passwords?|passwd|passphrase|credentials?|authorization|(api|access|private|secret)keys?"
)
"""The last word of a name that is a secret, whatever stands before it."""
TOKEN_OF_TEXT = re.compile(
    r"pad|eos|bos|unk|mask|cls|sep|separator|stop|image|video|audio|vision|special|added|start|end|begin|first|last|"
    r"next|think|sampled|pre|by|per|min|max|num"
)
"""Before `token`: a word for a tokenizer or a number, not for an account."""
OWNER = re.compile(
    r"api|access|private|secret|auth|encryption|signing|ssh|master|service|judge|account|client|subscription|"
    r"github|gh|gitlab|openai|anthropic|azure|google|gemini|mistral|deepseek|groq|cohere|together|openrouter|xai|"
    r"nvidia|hf|huggingface|wandb|aws"
)
"""Before `key`, `keys` and `pat`, which alone say nothing: `prompt_key` is a column's name."""
LOGIN = re.compile(
    r"db|database|smtp|mail|email|user|root|admin|proxy|redis|mysql|postgres|pg|http|ftp|login|git|ssh|service|account"
)
"""Before `pass` and `pwd`."""
PUBLIC = re.compile(r"public|primary|foreign|sort|group|cache|prompt|response|reward|messages|image|video|fn")
"""Before `KEY` in an environment variable that is no secret; others are."""
PAIR = re.compile(
    r"""([\w.\-]+)["']?\s*[:=]\s*(?="([^"]*)"|'([^']*)'|["']?((?:(?:bearer|basic|token)\s+)?[^\s,'"{}\[\]&]+))""",
    re.IGNORECASE,
)
SCHEME = re.compile(r"(?:bearer|basic|token)\s+(.+)", re.IGNORECASE | re.DOTALL)


@functools.lru_cache(4096)
def is_secret_name(name: str) -> bool:
    """Whether a key or an environment variable is named like a secret (`X-API-Key`, `apiKey` and `API_KEY_2` are)."""
    words = [word.rstrip("0123456789") or word for word in WORD_END.split(name) if word]
    if len(words) > 1 and words[-1].isdecimal():
        words.pop()
    before, end = ["", *words][-2:] if words else ("", "")
    word, owner = end.lower(), before.lower()
    if word in ("key", "keys", "pat") and OWNER.fullmatch(owner):
        return True
    if word in ("pass", "pwd") and LOGIN.fullmatch(owner):
        return True
    if end in ("KEY", "PASS", "PAT") and before:
        return not PUBLIC.fullmatch(owner)
    return bool(SECRET_WORD.fullmatch(word)) and not (word == "token" and TOKEN_OF_TEXT.fullmatch(owner))


_told: set[str] = set()


def learn(config: Any) -> None:
    """Remember the values of a nested configuration's keys that are named like secrets, until the process ends."""
    _told.update(_named_in(config))


def learn_from_texts(texts: Iterable[str]) -> None:
    """Remember what stands in texts as `api_key=...` or `{api_key: ...}`.

    That is guessed: for texts that could not be read in any better way, such as a command line that does not parse.
    """
    for text in texts:
        for name, *values in PAIR.findall(text):
            learn({name: "".join(values)})


def redact(value: Any) -> Any:
    """A copy of nested mappings, sequences and texts with `***` in place of secrets.

    Secrets are what the environment and `learn` know, and what `value` itself has under their names: in a mapping, or
    in a text like `api_key=...`.
    """
    return _redact(value, _by_length(_known() | _named_in(value)), by_name=True)


def hide_known() -> Callable[[Any], Any]:
    """`redact` for many values that are data, such as a scorer's answers; secrets are collected once, now.

    Only what the environment and `learn` know is hidden: in data a key named `token` may be a word of a language.
    """
    secrets = [secret for secret in _by_length(_known()) if len(secret) >= SHORTEST]
    return lambda value: _redact(value, secrets, by_name=False)


def _known() -> set[str]:
    return {text for name, text in os.environ.items() if is_secret_name(name)} | _told


def _named_in(config: Any) -> set[str]:
    return {str(value) for name, value in _leaves(config) if is_secret_name(name) and value is not None}


def _by_length(secrets: set[str]) -> list[str]:
    """All forms of the secrets, the longest first: a secret may begin like a longer one."""
    forms = {form for secret in secrets for form in _forms(secret)}
    return sorted(forms - {"", HIDDEN}, key=len, reverse=True)


def _forms(secret: str) -> Iterator[str]:
    """As it is, without `Bearer` before it, and as an address has it (`a/b` is `a%2Fb`)."""
    match = SCHEME.fullmatch(secret)
    for text in {secret, match[1] if match else secret}:
        yield text
        yield quote(text, safe="")


def _redact(value: Any, secrets: list[str], by_name: bool) -> Any:
    if isinstance(value, Mapping):
        return {
            name: HIDDEN
            if by_name and is_secret_name(str(name)) and _is_leaf(inner)
            else _redact(inner, secrets, by_name)
            for name, inner in value.items()
        }
    if isinstance(value, list | tuple):
        return [_redact(inner, secrets, by_name) for inner in value]
    return _redact_text(value, secrets, by_name) if isinstance(value, str) else value


def _redact_text(text: str, secrets: list[str], by_name: bool) -> str:
    for secret in secrets:
        if text == secret:
            return HIDDEN
        if len(secret) >= SHORTEST:
            text = text.replace(secret, HIDDEN)
    key, sign, value = text.partition("=")
    if by_name and sign and value and " " not in key and is_secret_name(key):
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
