"""Hydra's and YAML's errors as one sentence each: which argument or file, what is wrong with it, how to mend it.

Hydra speaks of its grammar and its search path; whoever typed the command wants to know which of their words was meant.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from pathlib import Path

QUOTING = "a value with brackets, braces, quotes, commas or colons is quoted twice: 'key=\"value\"'"


def sentence(error: Exception, presets: Sequence[str]) -> str:
    """One problem out of an error of Hydra, omegaconf or YAML.

    Args:
        error: what composing raised.
        presets: names that `--config-name` knows.
    """
    cause = f" {error.__cause__}" if error.__cause__ else ""
    text = re.sub(r"\+\+(?=[A-Za-z_])", "", f"{error}{cause}".strip())  # the door has put the ++ there
    if override := getattr(error, "override", None):
        return _override(str(override).lstrip("+"), text)
    if (missing := getattr(error, "missing_cfg_file", None)) is not None:
        return _preset(str(missing), text, presets)
    if match := re.match(r"Error merging override (.*?)\s*Cannot merge DictConfig with ListConfig", text, re.DOTALL):
        is_list = match[1].partition("=")[2].startswith("[")
        kinds = "is a list, but the key is a group of keys" if is_list else "is a mapping, but the key holds a list"
        return f"{match[1]}: {kinds}"
    return text


def _override(override: str, text: str) -> str:
    if "=" not in override:
        return f"{override}: is not key=value, and no flag either (flags begin with --)"
    place = "a stray character" if text.startswith("Lexer") else text.splitlines()[0]
    return f"{override}: cannot be read as key=value ({place}); {QUOTING}"


def _preset(missing: str, text: str, presets: Sequence[str]) -> str:
    near = difflib.get_close_matches(missing, presets, 1)
    hint = f" Did you mean {near[0]}?" if near else ""
    asker = re.match(r"In '([^']+)'", text)
    where = f" (asked for by {asker[1]})" if asker else ""
    return f"--config-name={missing}: there is no such preset{where}; known are {', '.join(presets)}.{hint}"


def yaml_sentence(error: Exception) -> str:
    """One problem out of a YAML file that does not parse."""
    mark = getattr(error, "problem_mark", None)
    problem = getattr(error, "problem", None) or str(error).splitlines()[0]
    if mark is None:
        return f"a preset is not valid YAML: {problem}"
    return f"{Path(str(mark.name))}, line {mark.line + 1}: is not valid YAML ({problem})"
