"""The embedded task's scorer against hand-written calls."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from verl.rewards.home_api import compute_score

TRUTH = {
    "device": "shower",
    "room": "attic",
    "level": 6,
    "verb": "move",
    "key": "value",
    "order": "first",
    "feedback": "weak",
}
RIGHT = "shower.move(room=attic,value=6)"


def score(attempt: str, extra_info: dict | None = None, **changes):
    return compute_score(attempt, json.dumps(TRUTH | changes), extra_info)


def test_the_exact_call_scores_one_and_has_no_feedback():
    assert score(RIGHT) == {"score": 1.0, "acc": 1.0, "pred": RIGHT, "incorrect_format": 0, "feedback": ""}
    assert score("shower.move(value=6,room=attic)", order="last")["score"] == 1.0


def test_a_response_without_end_of_sequence_scores_zero():
    result = score(RIGHT, {"truncated": True})
    assert (result["score"], result["feedback"], result["incorrect_format"]) == (0.0, "bad call.", 0)
    assert score(RIGHT, {"truncated": False})["score"] == 1.0


@pytest.mark.parametrize(
    ("attempt", "weak", "strong"),
    [
        ("shower.set(level=5,place=attic)", "unknown verb set.", "no verb set, use move."),
        ("shower.move(power=6,level=6)", "move: missing room.", "move: missing room."),
        ("shower.move(power=6,room=attic)", "move: unknown key power.", "move: missing value."),
        ("shower.move(value=6,room=attic)", "move value: room must come first.", "move value: room must come first."),
        ("shower.move(room=room,room=attic)", "move: unknown key room.", "move: missing value."),
        ("shower.move(room=attic,value=7)", "bad call.", "bad call."),
        ("shower.move(room=cellar,value=6)", "bad call.", "bad call."),
        ("kettle.move(room=attic,value=6)", "bad call.", "bad call."),
        ("shower.move(room=attic)", "bad call.", "bad call."),
        (RIGHT + " ", "bad call.", "bad call."),
        ("", "bad call.", "bad call."),
    ],
)
def test_feedback_names_the_first_problem_only(attempt, weak, strong):
    assert score(attempt)["feedback"] == weak
    assert score(attempt, feedback="strong")["feedback"] == strong
    assert score(attempt)["score"] == 0.0


def test_room_must_come_last():
    assert score(RIGHT, order="last")["feedback"] == "move value: room must come last."


FIXED = ["unknown", "verb", "key", "room", "missing", "must", "come", "first", "last", "bad", "call"]
PIECES = ["shower", "set", "move", "power", "value", "room", "attic", "6", "7", ".", "(", ")", "=", ",", " "]


@given(st.one_of(st.text(), st.lists(st.sampled_from(PIECES)).map("".join)))
def test_weak_feedback_adds_no_word_to_those_tried(attempt):
    feedback = score(attempt)["feedback"]
    assert all(word in FIXED or word in attempt for word in feedback.rstrip(".").replace(":", "").split())
    assert feedback not in ("unknown verb move.", "move: unknown key value.")


@pytest.mark.parametrize("ground_truth", ["", "[]", '{"device": "shower"}', json.dumps(TRUTH | {"order": "middle"})])
def test_a_broken_ground_truth_is_named(ground_truth):
    with pytest.raises(ValueError, match="ground_truth"):
        compute_score(RIGHT, ground_truth)
