"""Cutting the driver's arguments into one call for each rank."""

import pytest
from toy_worker import Toy

from verl.single_controller.dispatch import Arguments, Results, Rule, calls_for_ranks, rule_of

BROADCAST, SPLIT = Rule(), Rule(Arguments.SPLIT)


def test_broadcast_gives_everybody_everything():
    assert calls_for_ranks(BROADCAST, "toy.add", 2, [1], {"factor": 3}) == [((1,), {"factor": 3})] * 2


def test_split_cuts_only_the_first_argument():
    calls = calls_for_ranks(SPLIT, "toy.double", 2, [[10, 20], "of"], {"key": 1})
    assert calls == [((10, "of"), {"key": 1}), ((20, "of"), {"key": 1})]


@pytest.mark.parametrize(("parts", "given"), [([1, 2, 3], "3 parts"), (7, "a int")])
def test_wrong_parts_are_named(parts, given):
    with pytest.raises(ValueError, match=f"^toy.double: got {given} for 2 rank"):
        calls_for_ranks(SPLIT, "toy.double", 2, [parts], {})


def test_split_argument_must_come_by_position():
    with pytest.raises(ValueError, match="by position"):
        calls_for_ranks(SPLIT, "toy.double", 2, [], {"number": [1, 2]})


def test_rule_is_read_from_the_class():
    assert rule_of(Toy, "count") == Rule(Arguments.SPLIT, Results.ALL, streams=True)


@pytest.mark.parametrize("name", ["close", "absent"])
def test_undeclared_method_is_refused_with_the_names_there_are(name):
    with pytest.raises(AttributeError, match=rf"Toy has no method '{name}' .* it has add, count"):
        rule_of(Toy, name)
