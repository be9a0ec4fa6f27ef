"""Read the calls of a response in the Thought / Action / Action Input format, and the gold calls of a row.

JSON is read by a JSON parser, from the first brace on, so nested objects, braces inside of strings and text after the
object do no harm. Each input belongs to the action above it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

_MARK = re.compile(r"(?<!\w)Action(?P<input>[ _]Input)?[*_`]*[ \t]*:[*_`]*")
_INPUT = re.compile(r"(?<!\w)Action[ _]Input\b")
_LINE = re.compile(r"\s*([^\n]*)")
_FENCE = re.compile(r"\s*(?:```[a-z]*\s*)?`?")
_FORMAT = re.compile(
    r"^[ \t*_`]*Action[*_`]*[ \t]*:[*_`]*[ \t]*[^\s*_`][^\n]*\n\s*[*_`]*Action Input[*_`]*[ \t]*:", re.MULTILINE
)


@dataclass(frozen=True)
class ToolCall:
    """One action and its input."""

    action: str
    arguments: dict[str, str] | None
    """Canonical JSON by argument name, so that equal text means equal value; None: not a JSON object."""

    @property
    def text(self) -> str:
        """The input as JSON."""
        if self.arguments is None:
            return "null"
        return f"{{{', '.join(f'{json.dumps(name)}: {value}' for name, value in self.arguments.items())}}}"


def has_format(text: str) -> bool:
    """Whether an Action line is followed by an Action Input line."""
    return _FORMAT.search(text) is not None


def read_response(text: str) -> list[ToolCall]:
    """All calls of a response, in order; never raises. An action without a readable input has `arguments` None.

    What was thought before `</think>` is not said.
    """
    calls: list[ToolCall] = []
    is_open = False
    for kind, value in _pieces(text.rpartition("</think>")[2]):
        if kind == "action":
            calls.append(ToolCall(value, None))
            is_open = True
        elif is_open:
            calls[-1] = ToolCall(calls[-1].action, value)
            is_open = False
    return calls


def read_gold(ground_truth: Any) -> list[ToolCall]:
    """The calls of a row: a JSON list of {"Action": name, "Action_Input": JSON object, or the text of one}.

    Raises ValueError, with what was found, when it is anything else.
    """
    try:
        rows = json.loads(ground_truth) if isinstance(ground_truth, str) else ground_truth
        calls = [ToolCall(row["Action"], _gold_arguments(row["Action_Input"])) for row in rows]
    except (TypeError, ValueError, KeyError, RecursionError) as error:
        raise _bad_gold(ground_truth) from error
    if not calls or not all(isinstance(call.action, str) for call in calls):
        raise _bad_gold(ground_truth)
    return calls


def _bad_gold(ground_truth: Any) -> ValueError:
    wanted = 'a JSON list of {"Action": name, "Action_Input": JSON object}'
    return ValueError(f"tooluse: the ground truth is {str(ground_truth)[:500]!r}; it must be {wanted}.")


def _pieces(text: str) -> Iterator[tuple[str, Any]]:
    """("action", name) and ("input", arguments or None) as they follow each other; inputs hide what is inside them."""
    position = 0
    while mark := _MARK.search(text, position):
        position = mark.end()
        if mark["input"]:
            start = _FENCE.match(text, position)
            arguments, position = _parse(text, start.end() if start else position)
            yield "input", arguments
        elif name := _name(text, position):
            yield "action", name


def _name(text: str, position: int) -> str:
    """The tool's name: what is left of the line, or of the next one that is not blank, up to its input."""
    rest = _LINE.match(text, position)
    return _INPUT.split(rest[1], 1)[0].strip(" \t*`") if rest else ""


def _parse(text: str, start: int) -> tuple[dict[str, str] | None, int]:
    """The JSON object that begins at `start`, and where it ends; None and `start` if there is none."""
    try:
        value, end = _DECODER.raw_decode(text, start)
        return _canonical(value), end
    except (ValueError, RecursionError):
        return None, start


def _gold_arguments(value: Any) -> dict[str, str]:
    """Arguments of a gold call, through JSON in any case so that numbers are read alike."""
    return _canonical(_DECODER.decode(value if isinstance(value, str) else json.dumps(value)))


def _canonical(value: Any) -> dict[str, str]:
    if not isinstance(value, dict):
        raise ValueError("not an object")
    return {name: json.dumps(value[name], sort_keys=True) for name in sorted(value)}


def _number(text: str) -> int | float:
    """2.0 and 2 are the same number in JSON."""
    number = float(text)
    return int(number) if number.is_integer() else number


_DECODER = json.JSONDecoder(parse_float=_number)
