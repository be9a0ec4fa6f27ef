"""Equal answers and different ones."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from verl.rewards.code_comparison import same_output, same_value


@pytest.mark.parametrize(
    ("actual", "expected"),
    [
        ("3", "3\n"),
        ("3 \n4\t\n\n", "3\n4"),
        ("3\r\n4\r\n", "3\n4"),
        ("\n3", "3"),
        ("0.3333333333", "0.33333333"),
        ("x = 1.0000000001 y", "x = 1.0 y"),
        ("3.0", "3"),
        ("2.9999999999996", "3"),
        ("3", "3.0"),
        ("1e3", "1000.0"),
        ("-0.0", "0.0"),
        ("1e-17", "0.0"),
        ("123456789.4", "123456789.0"),
        ("7", "7-"),
        ("7-", "7-"),
        ("7\n8", "7\n8\n-"),
        ("-", "-"),
        ("nan", "nan"),
        ("9" * 5000, "9" * 5000),
        ("", ""),
    ],
)
def test_same_output(actual, expected):
    assert same_output(actual, expected)


@pytest.mark.parametrize(
    ("actual", "expected"),
    [
        ("3", "4"),
        ("1000000007", "1000000008"),
        ("1000000007", "1000000008.0"),
        ("1000000008.0", "1000000007"),
        ("0.3334", "0.3333"),
        ("0.0000001", "0.0000002"),
        ("1 2", "1\n2"),
        ("1\n\n2", "1\n2"),
        ("1\n2\n3", "1\n2"),
        ("  *\n***", "  *\n ***"),
        ("a  b", "a b"),
        ("YES", "Yes"),
        ("", "-"),
        ("", "0"),
        ("7-", "7"),
        ("1e999", "1e998"),
        ("inf", "1e999"),
        ("0x10", "16.0"),
        ("1_0.0", "10.0"),
        ("9" * 5000, "9" * 4999 + "8"),
        ("9" * 10**6 + "x", "1.5"),
        ("0." + "3" * 10**6, "0.3333333333333333"),
    ],
)
def test_different_output(actual, expected):
    assert not same_output(actual, expected)


@pytest.mark.parametrize(
    ("actual", "expected"),
    [
        (3, 3.0),
        (3.0, 3),
        (0.1 + 0.2, 0.3),
        ([1, [2.0, "a"], None], [1.0, [2, "a"], None]),
        ({"a": 1, "b": [0.5]}, {"b": [0.50000001], "a": 1.0}),
        (True, True),
        ("1", "1"),
        (float("inf"), float("inf")),
    ],
)
def test_same_value(actual, expected):
    assert same_value(actual, expected)


@pytest.mark.parametrize(
    ("actual", "expected"),
    [
        (1, True),
        (0, False),
        (None, 0),
        ("1", 1),
        ("a ", "a"),
        ([1, 2], [2, 1]),
        ([1], [1, 1]),
        ({"a": 1}, {"a": 1, "b": 2}),
        (10**30, 10**30 + 1),
        (10**400, 1.5),
        (1000000007, 1000000008.0),
        (float("nan"), 1.0),
        ([], {}),
    ],
)
def test_different_value(actual, expected):
    assert not same_value(actual, expected)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@given(JSON)
def test_a_value_survives_the_way_through_json(value):
    assert same_value(json.loads(json.dumps(value)), value)


@given(st.text(), st.text())
def test_output_is_compared_without_raising(actual, expected):
    assert same_output(expected, expected)
    same_output(actual, expected)


@given(st.integers(), st.integers())
def test_integers_are_exact(a, b):
    assert same_output(str(a), str(b)) == (a == b)
    assert same_value(a, b) == (a == b)
