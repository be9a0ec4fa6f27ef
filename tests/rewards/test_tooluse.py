"""Tool use: calls by hand, feedback that keeps the answer to itself, and text that is hard to parse."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from verl.rewards.tooluse import NO_ACTION, compute_score
from verl.rewards.tooluse_calls import read_response

FACTS = '[{"Action": "getFacts", "Action_Input": "{\\"category\\": \\"habits\\", \\"limit\\": 3}"}]'
NESTED = json.dumps([{"Action": "plot", "Action_Input": json.dumps({"range": {"x": [1, 2], "y": {"max": 3}}})}])
TWO = json.dumps(
    [
        {"Action": "check", "Action_Input": '{"ip": "1.2.3.4"}'},
        {"Action": "report", "Action_Input": '{"ip": "1.2.3.4", "why": "spam"}'},
    ]
)


def say(*calls):
    return "Thought: well.\n" + "\n".join(f"Action: {name}\nAction Input: {text}" for name, text in calls)


@pytest.mark.parametrize(
    ("gold", "response"),
    [
        (FACTS, say(("getFacts", '{"limit": 3, "category": "habits"}'))),
        (FACTS, say(("getFacts", '{"limit": 3.0, "category": "habits"}'))),
        (FACTS, say(("getFacts", '```json\n{\n "category": "habits",\n "limit": 3\n}\n```'))),
        (FACTS, '**Action:** getFacts\n**Action Input:** {"category": "habits", "limit": 3}\nObservation: fine'),
        (
            FACTS,
            "<think>Action: other\nAction Input: {}\n</think>" + say(("getFacts", '{"category":"habits","limit":3}')),
        ),
        (NESTED, say(("plot", '{"range": {"y": {"max": 3}, "x": [1, 2]}} as asked }'))),
        (TWO, say(("report", '{"why": "spam", "ip": "1.2.3.4"}'), ("check", '{"ip": "1.2.3.4"}'))),
        (json.loads(TWO), say(("check", '{"ip": "1.2.3.4"}'), ("report", '{"why": "spam", "ip": "1.2.3.4"}'))),
        ('[{"Action": "say", "Action_Input": {"text": "Action: } {"}}]', say(("say", '{"text": "Action: } {"}'))),
        ('[{"Action": "ping", "Action_Input": "{}"}]', say(("ping", "{}"))),
    ],
)
def test_right_calls(gold, response):
    found = compute_score(response, gold)
    assert (found["score"], found["acc"], found["incorrect_format"], found["feedback"]) == (1.0, 1.0, 0, "")


@pytest.mark.parametrize(
    ("gold", "response", "feedback"),
    [
        (FACTS, "I do not know.", NO_ACTION),
        (FACTS, say(("getImages", "{}")), 'Action "getImages" is wrong.'),
        (
            FACTS,
            say(("getFacts", '{"category": "habitat", "page": 3}')),
            'Action "getFacts": argument "category" has a wrong value.\n'
            'Action "getFacts": argument "page" should not be given.\n'
            'Action "getFacts": argument "limit" is missing.',
        ),
        (
            FACTS,
            say(("getFacts", "{'category': 'habits', 'limit': 3}")),
            'Action "getFacts": its Action Input is missing or not a JSON object.',
        ),
        (
            FACTS,
            say(("getFacts", '{"category": "habits", "limit": 3}'), ("getFacts", '{"category": "habits", "limit": 3}')),
            'Action "getFacts" is called too often.',
        ),
        (TWO, say(("check", '{"ip": "1.2.3.4"}')), "A further action is needed."),
        (
            TWO,  # together these hold every expected argument
            say(("check", '{"ip": "1.2.3.4", "why": "spam"}'), ("report", '{"ip": "1.2.3.4"}')),
            'Action "check": argument "why" should not be given.\nAction "report": argument "why" is missing.',
        ),
        (
            NESTED,
            say(("plot", '{"range": {"x": [1, 2], "y": {"max": 4}}}')),
            'Action "plot": argument "range" has a wrong value.',
        ),
        (
            '[{"Action": "f", "Action_Input": {"n": 1}}]',
            say(("f", '{"n": true}')),
            'Action "f": argument "n" has a wrong value.',
        ),
    ],
)
def test_wrong_calls_and_what_is_said_about_them(gold, response, feedback):
    found = compute_score(response, gold)
    assert (found["score"], found["feedback"]) == (0.0, feedback)


def test_the_revealing_text_is_an_option():
    response = say(("getFacts", '{"limit": 5}'))
    found = compute_score(response, FACTS, {"feedback_may_reveal_answer": True})
    expected = '[{"category": "habits", "limit": 3}]'
    assert found["feedback"] == f'Action inputs mismatch: predicted [{{"limit": 5}}], expected {expected}'
    found = compute_score(say(("f", "{}")), FACTS, {"feedback_may_reveal_answer": True})
    actions = 'Actions mismatch: predicted ["f"], expected ["getFacts"]'
    assert found["feedback"] == f"{actions}; Action inputs mismatch: predicted [{{}}], expected {expected}"


@given(st.dictionaries(st.sampled_from(["a", "b", "c"]), st.integers(0, 3)), st.sampled_from(["f", "g"]))
def test_feedback_never_tells_an_expected_value(arguments, action):
    gold = json.dumps([{"Action": "f", "Action_Input": json.dumps({"a": 987654, "b": "secret"})}])
    feedback = compute_score(say((action, json.dumps(arguments))), gold)["feedback"]
    assert feedback
    assert "987654" not in feedback
    assert "secret" not in feedback


@pytest.mark.parametrize(
    ("response", "incorrect_format"),
    [
        (say(("f", "{}")), 0),
        ("Action: f\n\nAction Input: {}", 0),
        ("Action: f Action Input: {}", 1),
        ("Action Input: {}\nAction: f", 1),
        ("Action: f", 1),
        ("", 1),
    ],
)
def test_format(response, incorrect_format):
    assert compute_score(response, '[{"Action": "f", "Action_Input": "{}"}]')["incorrect_format"] == incorrect_format


def test_one_line_is_right_although_its_form_is_not():
    assert compute_score("Action: f Action Input: {}", '[{"Action": "f", "Action_Input": "{}"}]')["score"] == 1.0


def test_pred_is_the_calls():
    found = compute_score(say(("f", '{"b": 1, "a": [2.0]}'), ("g", "none")), FACTS)
    assert json.loads(found["pred"]) == [
        {"Action": "f", "Action_Input": '{"a": [2], "b": 1}'},
        {"Action": "g", "Action_Input": "null"},
    ]


@pytest.mark.parametrize(
    "gold", ["", "{}", "[]", "[1]", '[{"Action": "f"}]', '[{"Action": "f", "Action_Input": "x"}]', None]
)
def test_a_malformed_gold_answer_is_an_error_of_the_data(gold):
    with pytest.raises(ValueError, match=r"tooluse: the ground truth is .* must be a JSON list"):
        compute_score(say(("f", "{}")), gold)


PIECES = [
    "Action:",
    "Action Input:",
    " f",
    "\n",
    "{",
    "}",
    '"a"',
    ":",
    "[",
    "]",
    "1e999",
    "\ud800",
    "```",
    "9" * 50,
    "*",
]


@given(st.lists(st.sampled_from(PIECES)).map("".join))
def test_no_response_raises(response):
    found = compute_score(response, FACTS)
    assert found["score"] == 0.0
    json.dumps(found, ensure_ascii=False).encode()


@pytest.mark.parametrize("text", ['{"a":' * 100_000, "[" * 100_000, "{" + '"a": ' + "9" * 10_000 + "}", "*" * 50_000])
def test_no_input_is_too_deep_or_too_long(text):
    (call,) = read_response(say(("f", text)))
    assert call.arguments is None
