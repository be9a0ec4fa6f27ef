"""Scorer of the embedded task `home_api`: one call of a home-automation API, and the error the API answers with.

The prompt `shower in the attic to 6` asks for `shower.move(room=attic,value=6)`; which verb, which key and which order
of the arguments a device wants is undocumented. A refused call returns one short error about the first problem only, as
real APIs do, behind the words that it accepted (`move: unknown key power.`). With `weak` feedback an error rules out
what was tried and names no right word that the call did not have; `strong` names it. The scorer is stateless: all that
it needs is in the row's ground truth.
"""

from __future__ import annotations

import json
import re
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal

ROOM_KEY = "room"
_CALL = re.compile(r"([a-z]{1,20})\.([a-z]{1,20})\(([a-z]{1,20})=([a-z0-9]{1,20}),([a-z]{1,20})=([a-z0-9]{1,20})\)")


@dataclass(frozen=True)
class Call:
    """The call a device accepts for one prompt, and how its errors are worded: the ground truth of a row."""

    device: str
    room: str
    level: int
    verb: str
    key: str
    """Name of the level's argument; the room's is always `room`."""
    order: Literal["first", "last"]
    """Where the room stands."""
    feedback: Literal["weak", "strong"] = "weak"

    @property
    def text(self) -> str:
        """The call as it must be written, to the letter."""
        arguments = [f"{ROOM_KEY}={self.room}", f"{self.key}={self.level}"]
        if self.order == "last":
            arguments.reverse()
        return f"{self.device}.{self.verb}({','.join(arguments)})"

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @staticmethod
    def from_json(text: str) -> Call:
        """Read a row's ground truth. Raises ValueError naming what is missing or unknown."""
        try:
            call = Call(**json.loads(text))
        except (TypeError, ValueError) as error:
            names = ", ".join(field.name for field in fields(Call))
            raise ValueError(
                f"ground_truth {text!r} is not a call: {error}; it is a JSON object of {names}."
            ) from error
        for name, allowed in (("order", ("first", "last")), ("feedback", ("weak", "strong"))):
            if getattr(call, name) not in allowed:
                raise ValueError(f"ground_truth {text!r}: {name} is {getattr(call, name)!r}, allowed are {allowed}.")
        return call


def complaint(attempt: str, truth: Call) -> str:
    """What the API answers to a call it refuses: the first problem only; empty when there is none.

    Problems are looked for in this order: form and device, verb, room, key, order, values.
    """
    match = _CALL.fullmatch(attempt)
    if match is None or match[1] != truth.device:
        return "bad call."
    _, verb, first_key, first_value, second_key, second_value = match.groups()
    is_strong = truth.feedback == "strong"
    if verb != truth.verb:
        return f"no verb {verb}, use {truth.verb}." if is_strong else f"unknown verb {verb}."
    keys = [first_key, second_key]
    if ROOM_KEY not in keys:
        return f"{verb}: missing {ROOM_KEY}."
    keys.remove(ROOM_KEY)
    if keys[0] != truth.key:
        return f"{verb}: missing {truth.key}." if is_strong else f"{verb}: unknown key {keys[0]}."
    if (first_key == ROOM_KEY) != (truth.order == "first"):
        return f"{verb} {truth.key}: {ROOM_KEY} must come {truth.order}."
    values = {first_key: first_value, second_key: second_value}
    return "" if values == {ROOM_KEY: truth.room, truth.key: str(truth.level)} else "bad call."


def compute_score(solution_str: str, ground_truth: str, extra_info: dict[str, Any] | None = None) -> dict[str, Any]:
    """Score one response: 1 for exactly the right call, ended by the end-of-sequence token; 0 for all else.

    Args:
        solution_str: the response, without special tokens.
        ground_truth: `Call` as JSON.
        extra_info: `truncated` is true for a response that has no end-of-sequence token.

    Returns:
        score and acc (0.0 or 1.0), pred (the response), incorrect_format (1 when it is no call at all), and feedback
        (empty on success).

    Raises:
        ValueError: the ground truth is not a call. No response raises.
    """
    truth = Call.from_json(ground_truth)
    is_truncated = bool((extra_info or {}).get("truncated", False))
    feedback = complaint(solution_str, truth) or ("bad call." if is_truncated else "")
    score = 0.0 if feedback else 1.0
    return {
        "score": score,
        "acc": score,
        "pred": solution_str,
        "incorrect_format": int(_CALL.fullmatch(solution_str) is None),
        "feedback": feedback,
    }
