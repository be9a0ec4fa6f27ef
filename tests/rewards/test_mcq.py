"""Multiple choice against hand-written responses."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from verl.rewards.mcq import compute_score

LETTER = "<reasoning>because</reasoning>\n<answer>\nB\n</answer>\n"


@pytest.mark.parametrize(
    ("response", "score", "incorrect_format", "pred"),
    [
        (LETTER, 1.0, 0, "B"),
        ("<answer>C</answer>", 0.0, 0, "C"),
        ("<answer>C</answer> no, <answer>B</answer>", 1.0, 0, "B"),
        ("<answer>B</answer> no, <answer>C</answer>", 0.0, 0, "C"),
        ("<answer>B</answer> I am sure.", 1.0, 1, "B"),
        ("<answer>B", 1.0, 1, "B"),
        (" B\n", 1.0, 1, "B"),
        ("<answer>B: 18</answer>", 0.0, 0, "B: 18"),
        ("The answer is B", 0.0, 1, "The answer is B"),
        ("B</answer>", 1.0, 1, "B"),
        ("<answer>b</answer>", 0.0, 0, "b"),
        ("", 0.0, 1, ""),
    ],
)
def test_by_hand(response, score, incorrect_format, pred):
    expected = {"score": score, "acc": score, "pred": pred, "incorrect_format": incorrect_format, "feedback": ""}
    assert compute_score(response, "B", None) == expected


@given(st.lists(st.sampled_from(["<answer>", "</answer>", "A", "B", " ", "\n", "x<"])).map("".join))
def test_it_never_raises_and_scores_only_the_letter(response):
    found = compute_score(response, "A", {"truncated": True})
    assert found["score"] == float(found["pred"] == "A")
