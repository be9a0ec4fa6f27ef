"""Routing, a user's own scorer, and reading what a scorer returned."""

import numpy as np
import pytest
import torch

from verl.rewards import SCORERS, check_sources, compute_score, load_custom, score_to_reward
from verl.types import Reward


def test_a_data_source_finds_its_scorer():
    assert compute_score("sciknoweval", "<answer>A</answer>", "A")["score"] == 1.0
    assert compute_score("sciknoweval", "<answer>A</answer>", "B", {"index": "3"})["score"] == 0.0


BASE_KEYS = {"score", "acc", "pred", "incorrect_format", "feedback"}
MATH_KEYS = BASE_KEYS | {"truncated", "truncated_and_missing_answer"}
CODE_KEYS = MATH_KEYS | {"error_in_test_cases", "timed_out"}
CALL = '{"device": "lamp", "room": "attic", "level": 3, "verb": "move", "key": "value", "order": "first"}'
CALLS = '[{"Action": "ping", "Action_Input": "{}"}]'
TESTS = '{"inputs": ["1"], "outputs": ["1"], "testtype": "stdin", "fn_name": "", "time_limit": 1}'
FAMILIES = {
    "code": (CODE_KEYS, TESTS, None),  # what needs a sandbox is in its own tests
    "gpqa": (BASE_KEYS, "B", "\\boxed{B}"),
    "home_api": (BASE_KEYS, CALL, "lamp.move(room=attic,value=3)"),
    "math_answer": (MATH_KEYS, "0.5", "\\boxed{1/2}"),
    "mcq": (BASE_KEYS, "B", "<answer>B</answer>"),
    "mmlu_pro": (BASE_KEYS, "B", "The answer is (B)."),
    "tooluse": (BASE_KEYS, CALLS, "Action: ping\nAction Input: {}"),
}


@pytest.mark.parametrize("info", [None, {}, {"truncated": True, "num_turns": 1, "feedback_may_reveal_answer": True}])
@pytest.mark.parametrize("data_source", SCORERS.names)
def test_all_scorers_of_a_family_return_its_keys(data_source, info):
    keys, gold, right = FAMILIES[SCORERS.load(data_source).__module__.rpartition(".")[2]]
    for response in ["", "something else", *([right] if right else [])]:
        found = compute_score(data_source, response, gold, info)
        assert found.keys() == keys
        is_wanted = response == right and not (data_source == "home_api" and (info or {}).get("truncated"))
        assert (found["score"], found["acc"]) == (float(is_wanted), float(is_wanted))
        assert isinstance(found["feedback"], str)
        assert not (is_wanted and found["feedback"])


def test_an_unknown_data_source_is_named_with_the_known_ones():
    with pytest.raises(ValueError, match=r"'sciknowevl'.*home_api, .*sciknoweval.*mean 'sciknoweval'"):
        compute_score("sciknowevl", "A", "A")


def test_sources_are_checked_before_the_start():
    assert check_sources({"sciknoweval", "home_api"}, has_custom=False) == []
    problems = check_sources(["b", "a", "b"], has_custom=False)
    assert [problem[:3] for problem in problems] == ["'a'", "'b'"]
    assert check_sources({"anything"}, has_custom=True) == []


@pytest.fixture
def scorer_file(tmp_path):
    def write(text):
        file = tmp_path / "my_scorer.py"
        file.write_text(text)
        return str(file)

    return write


def test_a_scorer_of_your_own_is_called_by_keyword_with_its_kwargs(scorer_file):
    path = scorer_file(
        "def grade(solution_str, ground_truth, data_source, extra_info=None, bonus=0):\n"
        "    return {'score': float(solution_str == ground_truth) + bonus, 'source': data_source}\n"
    )
    scorer = load_custom(path, "grade", {"bonus": 2})
    assert scorer(data_source="d", solution_str="x", ground_truth="x", extra_info=None) == {"score": 3.0, "source": "d"}


@pytest.mark.parametrize(
    ("text", "name", "kwargs", "message"),
    [
        (
            "def compute_score(answer, truth): ...",
            "compute_score",
            {},
            r"signature \(answer, truth\).*wanted",
        ),
        ("def compute_scores(): ...", "compute_score", {}, "has no such name; it has compute_scores.*Did you mean"),
        ("compute_score = 3", "compute_score", {}, "is a int, not a function"),
        ("async def f(**kwargs): ...", "f", {}, "async function"),
        ("import no_such_module", "f", {}, "ModuleNotFoundError: No module named 'no_such_module'"),
        ("def f(data_source, solution_str, ground_truth, extra_info): ...", "f", {"x": 1}, "unexpected keyword.*'x'"),
        ("def f(**kwargs): ...", "f", {"extra_info": 1}, "reward_kwargs sets extra_info"),
    ],
)
def test_what_cannot_be_called_is_refused(scorer_file, text, name, kwargs, message):
    with pytest.raises(ValueError, match=message):
        load_custom(scorer_file(text), name, kwargs)


def test_a_missing_file_is_named():
    with pytest.raises(ValueError, match=r"custom_reward_function\.path=nowhere\.py: no such file"):
        load_custom("nowhere.py")


def test_results_become_rewards():
    assert score_to_reward(0.5) == Reward(0.5, 0.5)
    assert score_to_reward(np.float32(1)) == Reward(1.0, 1.0)
    assert score_to_reward({"score": torch.tensor(1.0), "acc": True, "feedback": None}) == Reward(1.0, 1.0)
    full = {"score": 0.25, "acc": 0, "feedback": "f", "pred": "p", "timed_out": 1}
    assert score_to_reward(full) == Reward(0.25, 0.0, "f", {"pred": "p", "timed_out": 1})
    assert score_to_reward(compute_score("sciknoweval", "A", "A")).extras == {"pred": "A", "incorrect_format": 1}


@pytest.mark.parametrize(
    ("result", "message"),
    [
        (None, "'result' is None"),
        ("1.0", "'result' is '1.0'"),
        (float("nan"), "'result' is nan"),
        ({"acc": 1.0}, "no 'score'; it has acc"),
        ({"score": float("inf")}, "'score' is inf"),
        ({"score": 1, "feedback": ["x"]}, r"'feedback' is \['x'\]"),
    ],
)
def test_results_that_say_nothing_are_refused(result, message):
    with pytest.raises(ValueError, match=message):
        score_to_reward(result)
