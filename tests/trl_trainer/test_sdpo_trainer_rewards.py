"""Wrapped reward functions: the forms of results, feedback of this call only, and errors that name the function."""

import asyncio
import functools
import logging
import math
import types

import numpy as np
import pytest
import torch
from sdpo_trainer.rewards import join_feedback, wrap_reward, wrap_rewards

TEXTS = ["a", "bb", "ccc"]
STATE = types.SimpleNamespace(global_step=7)


def call(wrapped, completions=TEXTS, **columns):
    """As TRL calls a reward function."""
    return wrapped(
        prompts=["p"] * len(completions),
        completions=completions,
        completion_ids=[[1]] * len(completions),
        trainer_state=STATE,
        **columns,
    )


def returning(results):
    def some_reward(completions, **columns):
        return results

    return wrap_reward(some_reward)


@pytest.mark.parametrize(
    ("results", "scores", "feedback", "gives"),
    [
        ([1.0, 0, None], [1.0, 0.0, None], [None, None, None], False),
        (
            [{"score": 1.0}, {"score": 0.0, "feedback": "no"}, {"score": None, "feedback": None}],
            [1.0, 0.0, None],
            [None, "no", None],
            True,
        ),
        ([0.5, {"score": 0, "feedback": "x"}, None], [0.5, 0.0, None], [None, "x", None], True),
        ([{"score": 1}, {"score": 2}, {"score": 3}], [1.0, 2.0, 3.0], [None, None, None], False),
        ([{"score": 1, "feedback": None}, 2, 3], [1.0, 2.0, 3.0], [None, None, None], True),
        (np.array([1.0, 0.0, 0.25], dtype=np.float32), [1.0, 0.0, 0.25], [None, None, None], False),
        (torch.tensor([1.0, 0.0, 0.25]), [1.0, 0.0, 0.25], [None, None, None], False),
        ((True, False, 1), [1.0, 0.0, 1.0], [None, None, None], False),
    ],
)
def test_forms_of_results(results, scores, feedback, gives):
    wrapped = returning(results)
    assert call(wrapped) == scores
    assert (wrapped.feedback, wrapped.gives_feedback) == (feedback, gives)


def test_the_function_gets_everything_and_keeps_its_name():
    def length_reward(prompts, completions, completion_ids, answer, trainer_state, **rest):
        assert (prompts, completion_ids, trainer_state, rest) == (["p"] * 3, [[1]] * 3, STATE, {})
        return [float(len(text) == wanted) for text, wanted in zip(completions, answer, strict=True)]

    wrapped = wrap_reward(length_reward)
    assert call(wrapped, answer=[1, 1, 3]) == [1.0, 0.0, 1.0]
    assert wrapped.__name__ == "length_reward"


def test_names_of_callables_without_one():
    class Grader:
        def __call__(self, **columns):
            return []

    def weighted(weight, **columns):
        return []

    assert wrap_reward(Grader()).__name__ == "Grader"
    assert wrap_reward(functools.partial(weighted, 2)).__name__ == "weighted"
    assert wrap_reward(functools.partial(Grader())).__name__ == "Grader"


@pytest.mark.parametrize(
    ("results", "says"),
    [
        ([1.0, 0.0], r"'some_reward' returned 2 results for 3 completions"),
        ([1.0] * 4, r"returned 4 results for 3"),
        ([1.0, {"feedback": "x"}, 0.0], r"'some_reward', completion 1: .*no 'score'; it has feedback"),
        ([1.0, 0.0, math.nan], r"'some_reward', completion 2: .*nan"),
        ([{"score": math.inf}, 0.0, 0.0], r"completion 0: .*inf"),
        ([1.0, "1.0", 0.0], r"completion 1: .*'1.0'"),
        ([1.0, {"score": 0.0, "feedback": 3}, 0.0], r"completion 1: .*feedback.* 3"),
        ([1.0, {"score": None, "feedback": 3}, 0.0], r"completion 1: .*feedback.* 3"),
        (None, r"'some_reward' returned None; it must return a list"),
        ("abc", r"returned 'abc'"),
        ({"score": 1.0}, r"returned {'score': 1.0}"),
    ],
)
@pytest.mark.parametrize("on_error", ["raise", "zero"])
def test_results_that_cannot_be_read(results, says, on_error):
    def some_reward(completions, **columns):
        return results

    with pytest.raises(ValueError, match=says):
        call(wrap_reward(some_reward, on_error))


def test_other_numbers_are_logged_as_means():
    logged = {}
    results = [
        {"score": 1, "feedback": "x", "acc": 1, "words": 3, "note": "text", "right": True},
        {"score": 0, "acc": "unknown", "words": np.float32(5), "right": False},
        {"score": None, "acc": 0, "words": torch.tensor(10.0), "right": True},
    ]
    call(returning(results), log_metric=lambda name, value: logged.update({name: value}))
    assert logged == {
        "rewards/some_reward/acc/mean": 0.5,
        "rewards/some_reward/words/mean": 6.0,
        "rewards/some_reward/right/mean": pytest.approx(2 / 3),
    }
    assert call(returning(results)) == [1.0, 0.0, None]  # nobody to log to


class Setting:
    """Sets a new list in each call."""

    last_feedback = None

    def __call__(self, completions, **columns):
        self.last_feedback = [f"about {text}" for text in completions]
        return [0.0] * len(completions)


class Filling:
    """Fills its list anew in each call."""

    def __init__(self):
        self.last_feedback = []

    def __call__(self, completions, **columns):
        self.last_feedback.clear()
        for text in completions:
            self.last_feedback.append(f"about {text}")
        return [0.0] * len(completions)


class Property:
    """Its list cannot be replaced from outside."""

    def __init__(self):
        self._texts = []

    @property
    def last_feedback(self):
        return self._texts

    def __call__(self, completions, **columns):
        if "nothing" not in columns:
            self._texts[:] = [f"about {text}" for text in completions]
        return [0.0] * len(completions)


class Methods:
    def score(self, completions, **columns):
        self.last_feedback = [f"about {text}" for text in completions]
        return [0.0] * len(completions)


def with_attribute(completions, **columns):
    with_attribute.last_feedback = [f"about {text}" for text in completions]
    return [0.0] * len(completions)


@pytest.mark.parametrize(
    "make",
    [
        Setting,
        Filling,
        Property,
        lambda: Methods().score,
        lambda: with_attribute,
        lambda: functools.partial(with_attribute, weight=2),
        lambda: functools.partial(Filling(), weight=2),
    ],
)
def test_last_feedback_is_that_of_the_call(make):
    wrapped = wrap_reward(make())
    for completions in (["a", "b"], ["c", "d"], ["e"]):
        assert call(wrapped, completions) == [0.0] * len(completions)
        assert wrapped.feedback == [f"about {text}" for text in completions]
        assert wrapped.gives_feedback


def test_a_list_that_is_filled_again_with_the_same_words_is_told():
    wrapped = wrap_reward(Filling())
    for _ in range(2):
        call(wrapped, ["a", "a"])
        assert wrapped.feedback == ["about a", "about a"]


@pytest.mark.parametrize("later", [["c", "d"], ["c"]])
def test_a_stale_list_is_an_error_and_never_used(later):
    def told_once(completions, **columns):
        if "a" in completions:
            told_once.last_feedback = ["old a", "old b"]
        return [0.0] * len(completions)

    for function in (told_once, functools.partial(told_once)):
        wrapped = wrap_reward(function)
        call(wrapped, ["a", "b"])
        assert wrapped.feedback == ["old a", "old b"]
        with pytest.raises(ValueError, match=rf"'told_once' was not set in this call, which scored {len(later)}"):
            call(wrapped, later)
        assert (wrapped.feedback, wrapped.gives_feedback) == ([], False)


def test_a_stale_list_behind_a_property_is_an_error():
    wrapped = wrap_reward(Property())
    call(wrapped)
    with pytest.raises(ValueError, match="'Property' was not set in this call"):
        call(wrapped, nothing=True)


def test_none_means_that_nothing_was_said():
    def quiet(completions, **columns):
        quiet.last_feedback = None
        return [0.0] * len(completions)

    quiet.last_feedback = ["old"] * 3
    wrapped = wrap_reward(quiet)
    call(wrapped)
    assert (wrapped.feedback, wrapped.gives_feedback) == ([None] * 3, False)


@pytest.mark.parametrize(
    ("told", "says"),
    [
        (["x"], r"last_feedback of reward function 'teller' has 1 entries for 3 completions"),
        ([], r"has 0 entries"),
        (["x", 3, None], r"'teller', completion 1: 3 is neither a text nor None"),
        ("abc", r"'teller' is 'abc', which is no list"),
    ],
)
def test_wrong_last_feedback(told, says):
    def teller(completions, **columns):
        teller.last_feedback = told
        return [0.0] * len(completions)

    with pytest.raises(ValueError, match=says):
        call(wrap_reward(teller))


def test_the_users_old_list_is_left_as_it_is():
    function = Setting()
    wrapped = wrap_reward(function)
    call(wrapped, ["a"])
    kept = function.last_feedback
    wrapped.feedback.append("ours")
    call(wrapped, ["b"])
    assert kept == ["about a"]


def failing(completions, **columns):
    if columns.get("works"):
        return [{"score": 1.0, "feedback": "well"}] * len(completions)
    raise KeyError("answer")


async def failing_later(completions, **columns):
    return failing(completions, **columns)


@pytest.mark.parametrize("function", [failing, failing_later])
def test_a_failing_function_stops_the_run_and_is_named(function):
    wrapped = wrap_reward(function)
    with pytest.raises(RuntimeError, match=rf"'{function.__name__}' failed at step 7: KeyError: 'answer'") as error:
        result = call(wrapped)
        asyncio.run(result)
    assert isinstance(error.value.__cause__, KeyError)
    assert "on_reward_error='zero'" in str(error.value)


@pytest.mark.parametrize("function", [failing, failing_later])
def test_a_failing_function_may_count_as_zero(function, caplog):
    def run(**columns):
        result = call(wrapped, **columns)
        return asyncio.run(result) if asyncio.iscoroutine(result) else result

    wrapped = wrap_reward(function, "zero")
    assert run(works=True) == [1.0] * 3
    with caplog.at_level(logging.WARNING):
        assert run() == [0.0] * 3
    assert (wrapped.feedback, wrapped.gives_feedback) == ([None] * 3, False)
    assert f"'{function.__name__}' failed at step 7" in caplog.text and "KeyError" in caplog.text


def test_async_functions_stay_async_for_trl():
    is_async_callable = pytest.importorskip("trl.trainer.utils").is_async_callable

    class Later:
        last_feedback = None

        async def __call__(self, completions, **columns):
            await asyncio.sleep(0)
            self.last_feedback = [text.upper() for text in completions]
            return [1.0] * len(completions)

    async def plain(completions, **columns):
        return [{"score": 0.5, "feedback": "f"}] * len(completions)

    for function in (plain, Later(), functools.partial(plain, weight=1), functools.partial(Later())):
        wrapped = wrap_reward(function)
        assert is_async_callable(function) and is_async_callable(wrapped)
    for function in (failing, Filling(), Methods().score, functools.partial(failing)):
        assert not is_async_callable(wrap_reward(function))

    async def together():
        return await asyncio.gather(call(first), call(second))

    first, second = wrap_rewards([Later(), plain])
    assert asyncio.run(together()) == [[1.0] * 3, [0.5] * 3]
    assert (first.feedback, second.feedback) == (["A", "BB", "CCC"], ["f"] * 3)
    assert (first.__name__, second.__name__) == ("Later", "plain")


def test_reward_models_and_names_are_left_alone():
    model = torch.nn.Linear(1, 1)
    given = [model, "org/model", failing]
    wrapped = wrap_rewards(given, "zero")
    assert wrapped[0] is model and wrapped[1] == "org/model"
    assert wrapped[2].function is failing and wrapped[2].on_error == "zero"
    assert given == [model, "org/model", failing]  # TRL puts models into the list it gets
    assert wrap_rewards(None) == []
    assert wrap_rewards("org/model") == ["org/model"]
    assert [reward.__name__ for reward in wrap_rewards(failing)] == ["failing"]
    assert wrap_reward(wrapped[2]) is wrapped[2]
    with pytest.raises(TypeError, match="3 is neither a callable nor a reward model"):
        wrap_rewards([3])


def test_feedback_of_several_functions_is_joined():
    per_function = [
        ["first", None, "same", " ", "a"],
        ["second", None, "same", "only", "b"],
        [None, "", "other", None, "a"],
    ]
    assert join_feedback(per_function) == ["first\n\nsecond", None, "same\n\nother", "only", "a\n\nb"]
    assert join_feedback([]) == []
    with pytest.raises(ValueError):
        join_feedback([["a"], ["a", "b"]])
