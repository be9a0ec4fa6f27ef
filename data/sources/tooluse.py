"""Tool use (ToolAlpaca): a documented API and a request; the answer is the calls that serve it.

The set is not on the hub. Its files come with the reference's release, split and in the layout of our own files.
"""

from __future__ import annotations

from data.rows import Row
from data.schema import Question
from data.sources.base import Source

_WHERE = (
    "tooluse is not on the hub: its files, train.json and test.json, come with the release of SDPO "
    "(lasgroup/SDPO, datasets/tooluse). They are split already: put them into a folder and run "
    "`python data/preprocess.py --data_source FOLDER`; or give other rows of that layout with --from_path."
)


def _convert(row: Row) -> Question:
    for call in row.nested_rows("answer"):
        call.text("Action")
        call.nested("Action_Input")
    prompt = row.text("prompt")
    return Question(
        "tooluse",
        "tooluse",
        prompt,
        description=row.text_or_none("description") or prompt,
        answer=row.text("answer"),
        elo=row.number_or_none("elo"),
        system=row.text_or_none("system"),
    )


SOURCE = Source(_WHERE, ("prompt", "answer", "description", "elo", "system"), _convert)
