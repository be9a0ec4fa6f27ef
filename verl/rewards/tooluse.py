"""Tool use (ToolAlpaca): the right tools, called with the right arguments.

The calls of a response are compared with the gold ones as a multiset of (action, input): their order is free, and an
argument of one call cannot make up for another's. By default the feedback says which action or which argument is wrong
and keeps what would be right to itself.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

from verl.rewards.tooluse_calls import ToolCall, has_format, read_gold, read_response
from verl.rewards.verdict import may_reveal_answer, verdict

NO_ACTION = (
    "No action was found. Write a line `Action: <tool name>`, and below it a line `Action Input: <JSON object>`."
)
MAX_FEEDBACK = 2000  # characters


def compute_score(solution_str: str, ground_truth: Any, extra_info: dict[str, Any] | None = None) -> dict[str, Any]:
    """Score 1 when the calls of the response are those of `ground_truth`, in any order; 0 for all else.

    Inputs are equal when they are the same JSON value. `pred` is the calls as JSON; `incorrect_format` is 0 when an
    Action line is followed by an Action Input line.

    Raises:
        ValueError: the ground truth is not a list of calls. No response raises.
    """
    gold, calls = read_gold(ground_truth), read_response(solution_str)
    is_right = _multiset(calls) == _multiset(gold)
    text = json.dumps([{"Action": call.action, "Action_Input": call.text} for call in calls])
    if may_reveal_answer(extra_info) and calls:
        feedback = revealing_feedback(calls, gold)
    else:
        feedback = "\n".join(_complaints(calls, gold)) if calls else NO_ACTION
    return verdict(is_right, text, has_format(solution_str), _cut(feedback))


def revealing_feedback(calls: Sequence[ToolCall], gold: Sequence[ToolCall]) -> str:
    """What was predicted and what was expected."""
    parts: list[str] = []
    predicted, expected = [call.action for call in calls], [call.action for call in gold]
    if Counter(predicted) != Counter(expected):
        parts.append(f"Actions mismatch: predicted {json.dumps(predicted)}, expected {json.dumps(expected)}")
    inputs, wanted = [call.text for call in calls], [call.text for call in gold]
    if _multiset(calls) != _multiset(gold):
        parts.append(f"Action inputs mismatch: predicted [{', '.join(inputs)}], expected [{', '.join(wanted)}]")
    return "; ".join(parts)


def _complaints(calls: Sequence[ToolCall], gold: Sequence[ToolCall]) -> Iterator[str]:
    """One sentence for each thing that is wrong, without what would be right."""
    left = list(gold)
    wrong = [call for call in calls if not _take_equal(call, left)]
    for call in wrong:
        candidates = [other for other in left if other.action == call.action]
        if candidates:
            nearest = min(candidates, key=lambda other: len(list(_wrong_arguments(call, other))))
            left.remove(nearest)
            yield from _wrong_arguments(call, nearest)
        elif any(other.action == call.action for other in gold):
            yield f"Action {_quote(call.action)} is called too often."
        else:
            yield f"Action {_quote(call.action)} is wrong."
    if len(calls) < len(gold):
        yield "A further action is needed."


def _take_equal(call: ToolCall, left: list[ToolCall]) -> bool:
    """Take a call's equal out of those that are left, if it is there."""
    if call not in left:
        return False
    left.remove(call)
    return True


def _wrong_arguments(call: ToolCall, gold: ToolCall) -> Iterator[str]:
    action = f"Action {_quote(call.action)}"
    if call.arguments is None:
        yield f"{action}: its Action Input is missing or not a JSON object."
        return
    wanted = gold.arguments or {}
    for name, value in call.arguments.items():
        if name not in wanted:
            yield f"{action}: argument {_quote(name)} should not be given."
        elif wanted[name] != value:
            yield f"{action}: argument {_quote(name)} has a wrong value."
    for name in [name for name in wanted if name not in call.arguments]:
        yield f"{action}: argument {_quote(name)} is missing."


def _multiset(calls: Sequence[ToolCall]) -> Counter[tuple[str, str]]:
    """`text` lists the arguments in order of name; a call without a readable input equals no gold one."""
    return Counter((call.action, call.text) for call in calls)


def _quote(name: str) -> str:
    """A name of the model's own invention: cut, and safe to print."""
    return json.dumps(name if len(name) <= 100 else f"{name[:100]}...")


def _cut(text: str) -> str:
    return text if len(text) <= MAX_FEEDBACK else f"{text[:MAX_FEEDBACK]}..."
