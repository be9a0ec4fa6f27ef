"""The part of a programming problem that says what it is about, without its formats and examples."""

from __future__ import annotations

import re

_SEPARATOR = re.compile(
    r"""^(?:
        [ \t]* (?:`{3,}|~{3,}) .*                # a fence
      | [ \t]* (?:[-=_*][ \t]*){3,}              # a rule
      | [ \t]* >>> .*                            # an example of a session
        # a heading: Input, **Example 1:**, -----Input-----, Input Format, Input: n = 1
      | [^\w\n]* (?:(?:sample|standard)[ ]+)? (?:inputs?|examples?)
        (?: [^\w\n]* | [ ]+(?:formats?|descriptions?|specifications?|\#?\d+)\b .* | [ ]*: .* | [^\w\s]{2,} .* )
    )$""",
    re.IGNORECASE | re.MULTILINE | re.VERBOSE,
)


def parse_description(problem: str, min_length: int = 10) -> str:
    """The text before the first line that begins inputs, examples, a fence or a rule; "" when it is shorter than
    `min_length` characters."""
    first = _SEPARATOR.search(problem)
    text = (problem[: first.start()] if first else problem).strip()
    return text if len(text) >= min_length else ""
