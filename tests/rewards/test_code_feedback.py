"""The exact texts, and their limits."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from verl.rewards.code_feedback import CaseResult, format_test_feedback
from verl.sandbox import ErrorReport


def wrong(number, given="1", actual="2", expected="3", debug=()):
    return CaseResult("wrong", actual, number, given, actual, expected, debug=list(debug))


def failed(message="no", frames=(), given="1", kind="ValueError"):
    return CaseResult("error", "", 1, given, error=ErrorReport(kind, message, list(frames)))


PASSED = CaseResult("passed", "3", 1)
TIMEOUT = CaseResult("timeout", "Time out", 2, "5 6\n")


def test_the_first_kind_of_failure_speaks():
    error, no_program = failed(given="7\n"), CaseResult("format", "")
    told = "Runtime Error\nValueError: no\n\nLast Executed Input\n7"
    assert format_test_feedback([PASSED, wrong(2), TIMEOUT, error, failed("second")]) == told
    assert format_test_feedback([wrong(1), TIMEOUT]) == "Time Limit Exceeded\n\nLast Executed Input\n5 6"
    assert format_test_feedback([no_program]).startswith("Incorrect Format: ")
    assert format_test_feedback([no_program], is_truncated=True).startswith("Truncated Attempt: Your previous")
    assert format_test_feedback([PASSED]) == ""
    assert format_test_feedback([]) == "No test execution information available."


def test_the_last_three_frames():
    frames = [(9, "<module>"), (1, "solve"), (2, "inner"), (3, "innermost")]
    assert format_test_feedback([failed("x", frames)]) == (
        "Runtime Error\nValueError: x\nLine 1 in solve (Solution.py)\nLine 2 in inner (Solution.py)"
        "\nLine 3 in innermost (Solution.py)\n\nLast Executed Input\n1"
    )


def test_the_two_shortest_wrong_answers_with_debug_output():
    results = [wrong(1, "long input"), wrong(2, "4 \n", "a", "b"), PASSED, wrong(4, "5 6", "c", "d", ["x", "y"])]
    assert format_test_feedback(results) == (
        "Test Case 2: Wrong Answer\n\nInput\n4\n\nOutput\na\n\nExpected\nb\n\n"
        "Test Case 4: Wrong Answer\n\nInput\n5 6\n\nOutput\nc\n\nExpected\nd\n\nDebug Output\nx\ny"
    )


def test_limits_of_each_part():
    given = "\n".join(["i" * 300] + ["j"] * 10)
    seven, ten = "\n".join("j" * 7), "\n".join("abcdefghij")
    told = format_test_feedback([wrong(1, given, "o" * 251, "e" * 250, [*"abcdefghijkl", "d" * 301])])
    assert told == (
        f"Test Case 1: Wrong Answer\n\nInput\n{'i' * 247}...\n{seven}\n... (3 more lines)"
        f"\n\nOutput\n{'o' * 247}...\n\nExpected\n{'e' * 250}\n\nDebug Output\n{ten}"
        "\n... (3 more lines)"
    )
    told = format_test_feedback([wrong(1, debug=["d" * 301])])
    assert told.endswith(f"\n{'d' * 297}...")


def test_input_gives_way_before_debug_output():
    given = "\n".join(["i" * 250] * 8)
    told = format_test_feedback([wrong(1, given, "o" * 250, "e" * 250, ["d" * 250] * 2), wrong(2, given, "p", "q")])
    assert len(told) == 2000 or len(told) == 1999  # two inputs are cut to the same length
    assert f"Output\n{'o' * 250}\n\nExpected\n{'e' * 250}\n" in told
    assert "i...\n\nOutput\np\n\nExpected\nq\n" in told and told.endswith("d" * 250 + "\n" + "d" * 250)


def test_debug_output_gives_way_when_inputs_are_used_up():
    results = [wrong(i, "i" * 99, "o" * 250, "e" * 250, ["d" * 300] * 20) for i in (1, 2)]
    told = format_test_feedback(results)
    assert 1990 <= len(told) <= 2000 and told.count(f"{'o' * 250}\n\nExpected\n{'e' * 250}") == 2
    assert told.count("Input\n...\n") == 2 and told.endswith("d...")


@pytest.mark.parametrize("message", ["m" * 10_000, "m" * 1900])
def test_a_long_message_leaves_the_frames(message):
    frames = [(n, "f" * 1000) for n in range(3)]
    told = format_test_feedback([failed(message, frames, given="i" * 9999, kind="E" * 3000)])
    assert len(told) <= 2000 and told.count("(Solution.py)") == 3 and "m...\nLine 0 in f" in told


TEXT = st.text(alphabet="ab\n", max_size=3000)


@given(st.lists(st.builds(wrong, st.just(1), TEXT, TEXT, TEXT, st.lists(TEXT, max_size=12)), min_size=1, max_size=3))
def test_never_too_long(results):
    told = format_test_feedback(results)
    assert 0 < len(told) <= 2000 and "Output\n" in told and "Expected\n" in told
