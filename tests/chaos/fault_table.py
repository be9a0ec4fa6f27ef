"""The table of faults:  python tests/chaos/fault_table.py [outcomes.jsonl]

Tests append a line for each scenario to the file that VERL_CHAOS_TABLE names (none by default); this prints them as
Markdown, in the order they ran. `docs/reliability.md` holds one such table.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

VARIABLE = "VERL_CHAOS_TABLE"
COLUMNS = ("fault", "outcome", "seconds")


def note(fault: str, outcome: str, seconds: float) -> None:
    """Add a line, if a table was asked for."""
    if path := os.environ.get(VARIABLE):
        with Path(path).open("a") as file:
            file.write(json.dumps(dict(zip(COLUMNS, (fault, outcome, seconds), strict=True))) + "\n")


def table(lines: list[dict]) -> str:
    """Markdown."""
    rows = [f"| {line['fault']} | {line['outcome']} | {line['seconds']:.1f} |" for line in lines]
    return "\n".join(["| what is killed, and when | how the run ends | s to recover |", "|---|---|---|", *rows])


if __name__ == "__main__":
    source = Path(sys.argv[1] if len(sys.argv) > 1 else os.environ[VARIABLE])
    print(table([json.loads(line) for line in source.read_text().splitlines()]))
