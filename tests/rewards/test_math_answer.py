"""Mathematics: the box, equality, feedback about the form, and answers that would keep a checker busy for ever."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given
from hypothesis import strategies as st

from verl.rewards import math_checker
from verl.rewards.boxed import last_boxed
from verl.rewards.math_answer import compute_score

FORMAT = "Your answer had the wrong format. The solution must be given in the format: \\boxed{your_answer}."
TRUNCATED = "Your response was truncated because it exceeded the maximum length."


@pytest.mark.parametrize(
    ("text", "boxed"),
    [
        (r"so \boxed{5}.", "5"),
        (r"\boxed{\frac{1}{2}} then \boxed{ \frac{2}{3} } and more {x}", r"\frac{2}{3}"),
        (r"\boxed{\boxed{7}}", "7"),
        (r"\boxed{\{1, 2\}}", r"\{1, 2\}"),
        (r"\boxed{\left\{x\right.}", r"\left\{x\right."),
        (r"\boxed{3} or rather \boxed{4", "3"),
        (r"\boxed{\frac{1}{2}", None),
        (r"a stray } and { before \boxed {6}", "6"),
        (r"\boxed{}", ""),
        ("5", None),
        ("", None),
    ],
)
def test_last_box(text, boxed):
    assert last_boxed(text) == boxed


def test_a_box_is_found_far_from_the_end():
    assert last_boxed(r"\boxed{5} " + "and so on " * 1000) == "5"


@pytest.mark.parametrize(
    ("gold", "boxed"),
    [
        (r"\frac{1}{2}", "0.5"),
        ("1/2", r"\dfrac12"),
        (r"$\frac{14}{3}$", r"4\frac{2}{3}"),
        (r"\(2\sqrt{3}\)", r"$\sqrt{12}$"),
        ("-1,234", "-1234"),
        ("18", r"\$18"),
        ("18", r"18\text{ dollars}"),
        ("50%", r"50\%"),
        ("x^2+2x+1", "(x+1)^2"),
        ("5", "x = 5"),
        (r"\{1,2\}", "2, 1"),
        (r"\text{Evelyn}", "Evelyn"),
        ("(1,2)", "(1, 2)"),
        (r"\begin{pmatrix}1\\2\end{pmatrix}", r"\begin{pmatrix}1\\ 2\end{pmatrix}"),
        (70, "70.0"),
    ],
)
def test_equal_answers(gold, boxed):
    assert compute_score(f"It is \\boxed{{{boxed}}}.", gold)["score"] == 1.0


@pytest.mark.parametrize(
    ("gold", "boxed"),
    [("1234", "-1234"), ("7", "5 or 7"), ("(1,2)", "(2,1)"), (r"\pi", "3.14"), ("x", "y"), ("5", ""), ("5", "}{")],
)
def test_unequal_answers(gold, boxed):
    assert compute_score(f"It is \\boxed{{{boxed}}}.", gold)["score"] == 0.0


@pytest.mark.parametrize(
    ("response", "info", "wanted"),
    [
        (r"\boxed{ 5 }", {"truncated": True}, (1.0, "5", 0, "", 1, 0)),
        (r"\boxed{6}", None, (0.0, "6", 0, "", 0, 0)),
        (r"\boxed{6}", {"truncated": True}, (0.0, "6", 0, TRUNCATED, 1, 0)),
        ("5", {}, (0.0, "", 1, FORMAT, 0, 0)),
        ("5", {"truncated": True}, (0.0, "", 1, TRUNCATED, 1, 1)),
        (
            r"\boxed{6}",
            {"feedback_may_reveal_answer": True},
            (0.0, "6", 0, "Your answer is incorrect. The correct answer is 5.", 0, 0),
        ),
        ("5", {"feedback_may_reveal_answer": True}, (0.0, "", 1, FORMAT, 0, 0)),
    ],
)
def test_all_keys_by_hand(response, info, wanted):
    score, pred, incorrect_format, feedback, truncated, missing = wanted
    assert compute_score(response, "5", info) == {
        "score": score,
        "acc": score,
        "pred": pred,
        "incorrect_format": incorrect_format,
        "feedback": feedback,
        "truncated": truncated,
        "truncated_and_missing_answer": missing,
    }


def test_endless_comparisons_end_and_others_go_on(monkeypatch):
    """In threads, where SIGALRM would not work, and beside each other."""
    monkeypatch.setattr(math_checker, "TIMEOUT", 1.0)
    pairs = [("1", "9^{9^{9^{9}}}"), ("1/2", "0.5"), ("1", "(" * 3000), ("2", "1+1")]
    start = time.monotonic()
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda pair: math_checker.are_equal(*pair), pairs))
    assert found == [False, True, False, True]
    assert time.monotonic() - start < 60  # neither of the two ends by itself


def test_a_process_that_died_is_replaced():
    assert math_checker.are_equal("1/2", "0.5")
    for checker in math_checker._idle:
        checker._process.kill()
        checker._process.wait()
    assert math_checker.are_equal("1/2", "0.5")


def test_a_process_that_does_not_start_says_why(monkeypatch, tmp_path):
    script = tmp_path / "broken.py"
    script.write_text("print('No module named math_verify')")
    monkeypatch.setattr(math_checker, "_SCRIPT", script)
    monkeypatch.setattr(math_checker, "_idle", [])
    with pytest.raises(RuntimeError, match="does not start: No module named math_verify"):
        math_checker.are_equal("1/2", "0.5")


def test_the_main_thread_is_not_needed():
    found = []
    thread = threading.Thread(target=lambda: found.append(compute_score(r"\boxed{0.5}", r"\frac12")["score"]))
    thread.start()
    thread.join()
    assert found == [1.0]


@given(
    st.lists(st.sampled_from(["\\boxed{", "{", "}", "\\", "1", "x^", "\\frac", "$", "\n", "\ud800", "é"])).map("".join)
)
def test_no_response_raises(monkeypatch_checker, response):
    found = compute_score(response, "1")
    assert found["score"] == float(found["pred"] == "1")


@pytest.fixture(scope="module")
def monkeypatch_checker():
    """Equality as text only: thousands of odd formulas would take minutes."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("verl.rewards.math_answer.are_equal", lambda gold, pred: False)
        yield


@pytest.mark.parametrize(
    "boxed", ["\ud800", "\\", "x_", "^", "\\frac", "{", "\x00", "é∞", "\\left(", "\n\n", "%", "$$"]
)
def test_no_formula_raises(boxed):
    assert math_checker.are_equal("1", boxed) is False
