"""HumanEval+: a signature with a docstring to complete; one test program calls `check` with the function."""

from __future__ import annotations

from data.rows import Row
from data.schema import Question
from data.sources.base import Hub, LeftOut, Source
from data.sources.code_question import code_question, fenced
from data.sources.code_tests import StoredTests
from data.utils.code import parse_description


def _convert(row: Row) -> Question | LeftOut:
    prompt, entry_point = row.text("prompt"), row.text("entry_point")
    checks = f"{row.text('test').rstrip()}\n\ncheck({entry_point})\n"
    return code_question(
        f"Complete the function `{entry_point}`; give it whole, with the imports it needs.\n\n{fenced(prompt)}",
        StoredTests([checks], [""], "code", time_limit=5),
        "humanevalplus",
        description=parse_description(prompt) or prompt,
    )


SOURCE = Source(Hub("evalplus/humanevalplus", "test"), ("prompt", "entry_point", "test"), _convert)
