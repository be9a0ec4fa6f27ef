r"""The process behind `math_checker`: reads `[gold, pred]` lines, answers `true` or `false`; nothing else imports it.

Run as a file, with the seconds for one question. It bounds its own memory and processor time, so it ends even when the
process that would have to kill it has been killed itself.
"""

from __future__ import annotations

import json
import logging
import math
import os
import re
import resource
import sys
from typing import Any

MEMORY = 4 * 2**30  # bytes
_DELIMITERS = [(r"\(", r"\)"), (r"\[", r"\]"), ("$$", "$$"), ("$", "$")]
_PERCENT = re.compile(r"\\?%\s*\Z")


def main(seconds: float) -> None:
    """Answer until the input ends."""
    answers = os.fdopen(os.dup(1), "w")
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    try:
        import math_verify
    except ImportError as error:
        print(f"{error}. Install the package math-verify[antlr4_9_3].", file=answers, flush=True)
        return
    logging.disable(logging.CRITICAL)
    nothing = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, 1)  # the LaTeX parser prints its complaints
    os.dup2(nothing, 2)
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, resource.getrlimit(resource.RLIMIT_AS)[1]))
    print("ready", file=answers, flush=True)
    for line in sys.stdin:
        _allow_more_time(seconds)
        gold, pred = json.loads(line)
        print(json.dumps(_are_equal(math_verify, gold, pred)), file=answers, flush=True)


def _allow_more_time(seconds: float) -> None:
    """Let the system end this process when one question takes much longer than it may."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    limit = math.ceil(used.ru_utime + used.ru_stime + seconds) + 1
    resource.setrlimit(resource.RLIMIT_CPU, (limit, resource.getrlimit(resource.RLIMIT_CPU)[1]))


def _are_equal(math_verify: Any, gold: str, pred: str) -> bool:
    """By math-verify, without its own time limits, which are signals."""
    config = [math_verify.LatexExtractionConfig()]
    try:
        parsed = [
            math_verify.parse(_delimited(text), config, fallback_mode="no_fallback", parsing_timeout=None)
            for text in (gold, pred)
        ]
        return all(parsed) and bool(math_verify.verify(*parsed, timeout_seconds=None))
    except (Exception, MemoryError):
        return False


def _delimited(text: str) -> str:
    """The whole text as one formula; math-verify wants a percent sign behind it."""
    text = text.strip()
    for left, right in _DELIMITERS:
        if text.startswith(left) and text.endswith(right) and len(text) >= len(left) + len(right):
            text = text[len(left) : len(text) - len(right)].strip()
            break
    body = _PERCENT.sub("", text)
    return f"${body}$" if body == text else f"${body}$%"


if __name__ == "__main__":
    main(float(sys.argv[1]))
