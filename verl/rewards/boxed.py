r"""Find `\boxed{...}` in a response.

The whole response is searched, not only its end: after the box a model may go on to explain. Braces are counted as TeX
counts them, so `\{` and `\}` are text.
"""

from __future__ import annotations

import re

_OPENING = re.compile(r"\\boxed\s*\{")
_TOKEN = re.compile(r"\\.|[{}]", re.DOTALL)


def last_boxed(text: str) -> str | None:
    """What stands in the last box whose braces are balanced, stripped; of nested boxes, in the innermost.

    Returns None when there is no such box. Takes time in proportion to the text.
    """
    openings = {match.end() - 1: match.start() for match in _OPENING.finditer(text)}
    stack: list[int] = []
    last = (-1, 0, 0)
    position = 0
    while token := _TOKEN.search(text, position):
        position = token.end()
        if token[0] == "{":
            stack.append(token.start())
        elif token[0] == "}" and stack:
            opened = stack.pop()
            if opened in openings:
                last = max(last, (openings[opened], opened + 1, token.start()))
    return text[last[1] : last[2]].strip() if last[0] >= 0 else None
