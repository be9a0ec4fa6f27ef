"""The statement of a contest problem from the columns it is stored in."""

from __future__ import annotations

from data.rows import Row


def contest_problem(description: str, row: Row, input_column: str, output_column: str, note_column: str) -> str:
    """Description, input, output and note under headings; what a row lacks is left out."""
    parts = [description]
    for heading, column in (("Input", input_column), ("Output", output_column), ("Note", note_column)):
        if text := (row.text_or_none(column) or "").strip():
            parts.append(f"{heading}\n\n{text}")
    return "\n\n".join(parts)
