"""Reading the ground truth of programming tasks."""

import json

import pytest

from verl.rewards.code_tests import TestsError, read_tests


def truth(inputs, outputs, testtype="functional", fn_name="f", **more):
    return json.dumps({"inputs": inputs, "outputs": outputs, "testtype": testtype, "fn_name": fn_name, **more})


@pytest.mark.parametrize(
    ("given", "arguments"),
    [
        ("3", [3]),
        ("[1, 2]\n3\n", [[1, 2], 3]),
        ('"a b  c"\n[1, 2]', ["a b  c", [1, 2]]),
        ('{"a": 1}', [{"a": 1}]),
        ("[1,\n 2]", [[1, 2]]),
        ("", []),
        ({"a": 1, "b": "x"}, {"a": 1, "b": "x"}),
        ([1, [2]], [1, [2]]),
    ],
)
def test_arguments_by_hand(given, arguments):
    assert read_tests(truth([given], ["1"])).cases[0].arguments == arguments


def test_expected_values_are_json_or_text():
    found = read_tests(truth(["1"] * 4, ["[1, 2]", " true\n", "plain", [1, "ä"]])).cases
    assert [case.expected for case in found] == [[1, 2], True, "plain", [1, "ä"]]
    assert [case.expected_text for case in found] == ["[1, 2]", "true", "plain", '[1, "ä"]']


def test_the_object_itself_and_defaults():
    tests = read_tests({"inputs": ["assert f()"], "outputs": [], "testtype": "code", "context": "passed over"})
    assert (tests.kind, tests.time_limit, [case.number for case in tests.cases]) == ("code", 1.0, [1])


@pytest.mark.parametrize(
    ("ground_truth", "message"),
    [
        ("not json", "not JSON"),
        ("[" * 100_000, "not JSON"),
        ("[]", "a list; they must be an object"),
        (truth([], [], "stdout"), "testtype is 'stdout'"),
        (truth([], [], fn_name=""), "fn_name is ''"),
        (truth([], [], fn_name="a.b"), "fn_name is 'a.b'"),
        (truth([], [], time_limit=0), "time_limit is 0"),
        (truth([], [], time_limit="1"), "time_limit is '1'"),
        (truth(["1"], []), "same length"),
        (truth("1", "1"), "two lists"),
        (truth([1], ["1"], "stdin"), "test 1: input and output must be texts"),
        (truth(["1", "x y"], ["1", "1"]), "test 2: .*one JSON value per line"),
        (truth([3], ["1"]), "test 1: the input is 3"),
    ],
)
def test_what_cannot_be_read_is_named(ground_truth, message):
    with pytest.raises(TestsError, match=message):
        read_tests(ground_truth)
