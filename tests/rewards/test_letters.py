"""GPQA and MMLU-Pro: which letter a response chose, by hand."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from verl.rewards import gpqa, mmlu_pro


@pytest.mark.parametrize(
    ("response", "pred", "incorrect_format"),
    [
        (r"so \boxed{B}", "B", 0),
        (r"\boxed{\text{(C)}} is better than A, B and D.", "C", 0),
        (r"\boxed{A} no, \boxed{D}", "D", 0),
        (r"\boxed{\mathbf{B.}}", "B", 0),
        ("The answer is C.", "C", 1),
        ("The answer is a photon, so C wins over a proton", "C", 1),
        ("It is D. A photon has no charge.", "D", 1),
        ("It is D, because a photon is a boson", "D", 1),
        ("B", "B", 1),
        ("**B**", "B", 1),
        ("Final answer:\nA", "A", 1),
        ("Option A is right", "A", 1),
        ("The answer is A because of the mass", "A", 1),
        ("CAB DNA vitamin-D D-glucose A's", "", 1),
        ("the letter e", "", 1),
        (r"\boxed{E} after B", "B", 1),
        (r"\boxed{42}", "", 1),
        ("", "", 1),
    ],
)
def test_gpqa(response, pred, incorrect_format):
    assert gpqa.compute_score(response, "B") == {
        "score": float(pred == "B"),
        "acc": float(pred == "B"),
        "pred": pred,
        "incorrect_format": incorrect_format,
        "feedback": "",
    }


@pytest.mark.parametrize(
    ("response", "pred", "incorrect_format"),
    [
        ("The answer is (G).", "G", 0),
        ("the answer is (A). No, the answer is (J), as B showed.", "J", 0),
        ("The answer is I", "I", 0),
        ("The answer is (I), I think.", "I", 0),
        ("The answer is **(C)**.", "C", 0),
        (r"The answer is $\boxed{\text{C}}$, not D", "C", 0),
        ("Answer: F\nSo the answer is (E)", "E", 0),
        ("Answer: F, and D is wrong", "F", 0),
        ("**Answer:** H", "H", 0),
        ("I think that H fits. I am sure. A proof follows.", "H", 1),
        ("H or J? I'd say J", "J", 1),
        ("I would say so", "", 1),
        ("A gas is a fluid", "", 1),
        ("(A)", "A", 1),
        ("I", "I", 1),
        ("answer is b", "", 1),
        ("The answer is K", "", 1),
    ],
)
def test_mmlu_pro(response, pred, incorrect_format):
    found = mmlu_pro.compute_score(response, pred or "A", {"truncated": True})
    assert (found["pred"], found["incorrect_format"]) == (pred, incorrect_format)
    assert found["score"] == found["acc"] == float(bool(pred))
    assert found["feedback"] == ""


PIECES = ["answer is ", "Answer: ", "(", ")", "\\boxed{", "}", "A", "I", "J", "a", " ", "\n", ".", "-", "'", "\ud800"]


@given(st.lists(st.sampled_from(PIECES)).map("".join), st.sampled_from([gpqa, mmlu_pro]))
def test_no_response_raises(response, scorer):
    found = scorer.compute_score(response, "A")
    assert found["pred"] in {"", *scorer.LETTERS}
    assert found["score"] == float(found["pred"] == "A")
