"""Find the program in a response: the longest fenced block.

Read line by line, as Markdown is, so that three backticks inside a string of the program do not end it and any language
tag will do. Only when no fence stands on lines of its own are looser ones looked for.
"""

from __future__ import annotations

import re
import textwrap

_FENCE = re.compile(r"[ \t]*(`{3,})([^`]*)")
_OPENER = re.compile(r"(?<!`)(`{3,})[\w+#.-]*\s*$")
_LOOSE_BLOCK = re.compile(r"```[^\n`]*\n(.*?)```", re.DOTALL)


def extract_code(response: str) -> str | None:
    """The longest closed fenced block of the response, the first of several; None when there is none.

    Language tags are ignored. A fence that is opened again before it was closed is forgotten, and blocks of nothing but
    white space do not count.
    """
    blocks = _blocks(response) or _LOOSE_BLOCK.findall(response)
    return max((block.rstrip() for block in blocks if block.strip()), key=len, default=None)


def _blocks(response: str) -> list[str]:
    """Every block whose fences stand on lines of their own (the opening one may follow some text)."""
    blocks: list[str] = []
    lines: list[str] = []
    fence = ""
    for line in response.replace("\r\n", "\n").split("\n"):
        match = _FENCE.fullmatch(line)
        if match is None:
            opener = _OPENER.search(line) if not fence else None
            if opener:
                fence, lines = opener[1], []
            else:
                lines.append(line)
        elif fence and not match[2].strip() and len(match[1]) >= len(fence):
            blocks.append(textwrap.dedent("\n".join(lines)))
            fence = ""
        elif not fence or match[2].strip():
            fence, lines = match[1], []
        else:
            lines.append(line)
    return blocks
