"""MBPP+: one sentence about a function; only an assertion tells its name, so the first one is shown."""

from __future__ import annotations

from data.rows import Row
from data.schema import Question
from data.sources.base import Hub, LeftOut, Source
from data.sources.code_question import code_question, fenced
from data.sources.code_tests import StoredTests


def _convert(row: Row) -> Question | LeftOut:
    prompt = row.text("prompt")
    imports = "".join(f"{line}\n" for line in row.array("test_imports"))
    shown = row.texts("test_list")[0]
    return code_question(
        f"{prompt}\n\nThis must hold:\n\n{fenced(shown)}",
        StoredTests([imports + row.text("test")], [""], "code", time_limit=5),
        "mbppplus",
        description=prompt,
    )


SOURCE = Source(Hub("evalplus/mbppplus", "test"), ("prompt", "test_imports", "test_list", "test"), _convert)
