"""What the teacher is shown, under the published names: hand-written texts."""

import inspect
import math
import subprocess
import sys

import pytest
from sdpo_trainer import reprompting
from sdpo_trainer.reprompting import (
    DEFAULT_FEEDBACK_TEMPLATE,
    DEFAULT_REPROMPT_TEMPLATE,
    DEFAULT_SOLUTION_TEMPLATE,
    build_teacher_messages,
    build_teacher_prompts,
    compute_self_distillation_mask,
    remove_thinking_tags,
    scored_samples,
    select_demonstration,
)

from verl.config import SelfDistillationConfig
from verl.self_distillation.reprompt import build_reprompts

UIDS = ["a", "a", "a", "b", "b"]
REWARDS = [1.0, 0.0, 1.0, 0.5, float("nan")]
TEXTS = ["<think>x</think> one", "two", "three", "four", "five"]


def test_templates_end_with_one_newline():
    assert DEFAULT_REPROMPT_TEMPLATE == "{prompt}{solution}{feedback}\n\nCorrectly solve the original question.\n"
    assert DEFAULT_SOLUTION_TEMPLATE == "\nCorrect solution:\n\n{successful_previous_attempt}\n"
    assert DEFAULT_FEEDBACK_TEMPLATE == (
        "\nThe following is feedback from your unsuccessful earlier attempt:\n\n{feedback_raw}\n"
    )


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("<think>a\nb</think>\n\n x<think>c</think>\ty", "xy"),
        ("a<think>open", "a<think>open"),
        ("a</think>b", "a</think>b"),
        ("", ""),
    ],
)
def test_thinking_is_removed(text, left):
    assert remove_thinking_tags(text) == left


@pytest.mark.parametrize(
    ("idx", "more", "shown"),
    [
        (0, {}, "three"),  # not its own
        (0, {"exclude_self": False}, TEXTS[0]),
        (1, {}, TEXTS[0]),  # the first of its group
        (1, {"remove_thinking": True}, "one"),
        (-5, {}, "three"),
        (3, {}, None),  # .5 is no success, and another group's do not count
        (4, {"success_threshold": 0.5}, "four"),
        (3, {"success_threshold": 0.5}, None),  # only its own, and a nan
        (4, {"success_threshold": -1e9, "exclude_self": False}, "four"),
    ],
)
def test_demonstration(idx, more, shown):
    assert select_demonstration(idx, UIDS, REWARDS, TEXTS, **more) == shown


def test_nobody_scored_is_no_success():
    rewards = [None, math.nan]
    assert select_demonstration(0, [7, 7], rewards, ["x", "y"], -1e9, exclude_self=False) is None


def test_samples_beyond_the_lists_and_unequal_lists_are_refused():
    for idx in (5, -6):
        with pytest.raises(IndexError, match=f"idx={idx}: there are 5 samples"):
            select_demonstration(idx, UIDS, REWARDS, TEXTS)
    with pytest.raises(ValueError, match="rewards has 4, completions has 5"):
        select_demonstration(0, UIDS, REWARDS[:4], TEXTS)
    with pytest.raises(ValueError, match="prompts has 1, solutions has 2"):
        build_teacher_prompts(["q"], [None, None], [None])
    with pytest.raises(ValueError, match="feedback_list has 0"):
        compute_self_distillation_mask([None], [])
    with pytest.raises(ValueError, match="teacher_prompt_texts has 2"):
        build_teacher_messages(["q"], ["x", "y"])


PARTS = {
    "reprompt_template": "{prompt}{solution}{feedback}.",
    "solution_template": "|S:{successful_previous_attempt}",
    "feedback_template": "|F:{feedback_raw}",
}


@pytest.mark.parametrize(
    ("only_without", "both", "mask"),
    [(False, "q|S:s|F:f.", [1.0, 1.0, 1.0, 0.0, 0.0]), (True, "q|S:s.", [1.0, 1.0, 1.0, 0.0, 0.0])],
)
def test_teacher_prompts(only_without, both, mask):
    solutions, feedback = ["s", "s", None, None, None], ["f", None, "f", None, " \n"]
    found = build_teacher_prompts(["q"] * 5, solutions, feedback, only_without, **PARTS)
    assert found == [both, "q|S:s.", "q|F:f.", "q", "q"]
    assert compute_self_distillation_mask(solutions, feedback, only_without) == mask


def test_default_prompt_in_full():
    (found,) = build_teacher_prompts(["Q {x}"], ["S }{"], ["F %s"])
    assert found == (
        "Q {x}\nCorrect solution:\n\nS }{\n\nThe following is feedback from your unsuccessful earlier attempt:\n\n"
        "F %s\n\n\nCorrectly solve the original question.\n"
    )


def test_a_template_without_its_placeholder_is_refused():
    with pytest.raises(ValueError, match=r"reprompt_template.*lacks \{feedback\}"):
        build_teacher_prompts(["q"], ["s"], [None], reprompt_template="{prompt}{solution}")


def test_conversations_keep_all_but_their_last_turn():
    """The new text is a user turn of its own: an already rendered prompt is never pasted into one."""
    chat = [{"role": "system", "content": "s"}, {"role": "user", "content": "q"}]
    assert build_teacher_messages([chat, "plain", []], ["A", "B", "C"]) == [
        [{"role": "system", "content": "s"}, {"role": "user", "content": "A"}],
        [{"role": "user", "content": "B"}],
        [{"role": "user", "content": "C"}],
    ]
    assert chat[1]["content"] == "q"


def test_the_functions_say_what_the_shared_core_shows():
    """Selection, prompts and conversations, put together by hand, are `build_reprompts` of the same samples."""
    config = SelfDistillationConfig(success_reward_threshold=1.0, environment_feedback_only_without_solution=False)
    chats = [[{"role": "user", "content": f"Q {uid}"}] for uid in UIDS]
    feedback = [None, "bad", "", "worse", None]
    samples = scored_samples(chats, UIDS, REWARDS, TEXTS, feedback)
    expected = build_reprompts(samples, config, lambda messages: [1], seed=0)
    solutions = [select_demonstration(i, UIDS, REWARDS, TEXTS, remove_thinking=True) for i in range(5)]
    templates = {name: getattr(config, name) for name in PARTS}
    texts = build_teacher_prompts([chat[0]["content"] for chat in chats], solutions, feedback, **templates)
    assert build_teacher_messages(chats, texts) == expected.messages
    assert compute_self_distillation_mask(solutions, feedback) == expected.self_distillation_mask == [1, 1, 1, 1, 0]


def test_samples_hold_the_columns():
    chat = [{"role": "user", "content": "q"}]
    first, second = scored_samples([chat, chat], [0, 0], [0.25, None], ["x", "y"], ["no", None])
    assert (first.uid, first.prompt.messages, first.response_text) == ("0", chat, "x")
    assert (first.reward.score, first.reward.feedback, second.reward.feedback) == (0.25, "no", "")
    assert math.isnan(second.reward.score) and second.rollout.request_id == 1


def test_published_arguments_and_defaults():
    def of(name):
        parameters = inspect.signature(getattr(reprompting, name)).parameters.values()
        return [p.name if p.default is p.empty else (p.name, p.default) for p in parameters]

    assert of("select_demonstration")[4:] == [
        ("success_threshold", 1.0),
        ("exclude_self", True),
        ("remove_thinking", False),
    ]
    assert of("build_teacher_prompts") == [
        "prompts",
        "solutions",
        "feedback_list",
        ("feedback_only_without_solution", False),
        ("reprompt_template", DEFAULT_REPROMPT_TEMPLATE),
        ("solution_template", DEFAULT_SOLUTION_TEMPLATE),
        ("feedback_template", DEFAULT_FEEDBACK_TEMPLATE),
    ]


def test_it_does_not_import_torch():
    code = "import sdpo_trainer.reprompting, sys; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
