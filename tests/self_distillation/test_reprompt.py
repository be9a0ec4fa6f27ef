"""The teacher's prompts against recorded cases and hand-written texts."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from verl.config import SelfDistillationConfig
from verl.self_distillation.reprompt import build_reprompts, demonstration_messages, write_reprompts

CASES = json.loads((Path(__file__).parents[1] / "fixtures" / "reprompt.json").read_text())["cases"]


def encode(messages):
    """One token for each character, and 5 for the header of the answer."""
    return [ord(c) for m in messages for c in m["role"] + m["content"]] + [0] * 5


def build(samples, seed=0, **settings):
    return build_reprompts(samples, SelfDistillationConfig(**settings), encode, seed)


def last(reprompts):
    return [messages[-1]["content"] for messages in reprompts.messages]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["name"])
def test_recorded_cases(case, make_sample):
    rows = zip(case["uids"], case["rewards"], case["responses"], case["feedback"], strict=True)
    found = build([make_sample(*row) for row in rows], **case["overrides"])
    assert last(found) == case["teacher_user_messages"]
    assert found.self_distillation_mask == case["mask"]
    assert {name: found.metrics[name] for name in case["metrics"]} == pytest.approx(case["metrics"], abs=1e-6)


def test_token_ids_are_those_of_the_teachers_conversation(make_sample):
    found = build([make_sample(score=1.0), make_sample(), make_sample(uid="alone")])
    assert found.teacher_prompt_ids == [[], encode(found.messages[1]), []]
    assert found.metrics["self_distillation/reprompt_len/max"] == len(encode(found.messages[1]))


def test_braces_and_percent_signs_survive_everywhere(make_sample):
    question = [{"role": "user", "content": "f{x} {prompt} {{}} %s"}]
    samples = [make_sample(text="{feedback} }{", score=1.0), make_sample(feedback="{0} {", messages=question)]
    found = build(samples, environment_feedback_only_without_solution=False)
    assert last(found)[1] == (
        "f{x} {prompt} {{}} %s\nCorrect solution:\n\n{feedback} }{\nThe following is feedback from your unsuccessful"
        " earlier attempt:\n\n{0} {\n\nCorrectly solve the original question."
    )


def test_system_message_and_earlier_turns_are_kept(make_sample):
    turns = [("system", "S"), ("user", "one"), ("assistant", "two"), ("user", "three")]
    messages = [{"role": role, "content": content} for role, content in turns]
    found = build([make_sample(feedback="wrong", messages=messages)]).messages[0]
    assert found[:3] == messages[:3]
    assert found[3]["role"] == "user" and found[3]["content"].startswith("three\nThe following is feedback")


def test_own_failed_attempt_is_shown_where_the_template_asks(make_sample):
    template = "{prompt}|{attempt}|{solution}{feedback}"
    samples = [make_sample(text="<think>t</think> bad", feedback="no"), make_sample(text="good", score=1.0)]
    found = build(
        [*samples, make_sample(score=1.0)],
        reprompt_template=template,
        solution_template="{successful_previous_attempt}",
    )
    assert last(found) == ["Q_u|bad|good", "Q_u||answer", "Q_u||good"]


def test_own_success_is_shown_only_when_allowed(make_sample):
    samples = [make_sample(score=1.0, text="mine")]
    assert build(samples).self_distillation_mask == [0.0]
    assert "mine" in last(build(samples, dont_reprompt_on_self_success=False))[0]


def test_thinking_is_removed_from_closed_blocks_only(make_sample):
    shown = make_sample(score=1.0, text="<think>a\nb</think>\n\nx <think>c</think>y<think>open")
    assert "\n\nx y<think>open\n\n" in last(build([shown, make_sample()]))[1]
    kept = build([shown, make_sample()], remove_thinking_from_demonstration=False)
    assert shown.response_text in last(kept)[1]


@pytest.mark.parametrize(
    ("tag", "kept"),
    [
        ("<reason>", "A<think>B</think>D"),
        ("[THINK]", "A<think>B</think><reason>C</reason>\nD"),
        (None, "A<think>B</think><reason>C</reason>\nD"),
        ("", "A<think>B</think><reason>C</reason>\nD"),
    ],
)
def test_only_blocks_of_the_thinking_tag_are_removed(make_sample, tag, kept):
    shown = make_sample(score=1.0, text="A<think>B</think><reason>C</reason>\nD")
    template = "{prompt}|{attempt}|{solution}{feedback}"
    settings = {"reprompt_template": template, "solution_template": "{successful_previous_attempt}"}
    found = last(build([shown, make_sample(text=shown.response_text)], thinking_tag=tag, **settings))
    assert found[1] == f"Q_u|{kept}|{kept}"


def test_thinking_in_brackets_is_removed():
    settings = SelfDistillationConfig(solution_template="{successful_previous_attempt}!", thinking_tag="[THINK]")
    found = demonstration_messages([{"role": "user", "content": "Q"}], "[THINK]a\n[/THINK] \nS[TH/INK]", settings)
    assert found[0]["content"].startswith("QS[TH/INK]!")


def test_with_none_no_success_is_shown_but_counted(make_sample):
    samples = [make_sample(score=1.0), make_sample(feedback="no"), make_sample(), make_sample("v", feedback="why")]
    found = build(samples, demonstration_choice="none", dont_reprompt_on_self_success=False)
    assert found.self_distillation_mask == [0.0, 1.0, 0.0, 1.0]
    assert "earlier attempt:\n\nno\n\n" in last(found)[1] and "Correct solution" not in last(found)[1]
    shares = {"success_group": 0.5, "success_sample": 0.0, "feedback_used": 0.5}
    assert {name: found.metrics[f"self_distillation/{name}_fraction"] for name in shares} == shares


def test_shortest_demonstration_counts_the_text_without_thinking(make_sample):
    texts = ["long long", "<think>very much thought</think>tiny", "middle"]
    samples = [make_sample(score=1.0, text=text) for text in texts]
    found = last(build([*samples, make_sample()], demonstration_choice="shortest"))
    assert "\n\ntiny\n\n" in found[3] and "\n\nmiddle\n\n" in found[1]


def test_random_demonstration_depends_on_seed_and_sample_alone(make_sample):
    samples = [make_sample(score=1.0, text=f"s{i}") for i in range(8)] + [make_sample()] * 8
    draws = {seed: last(build(samples, seed, demonstration_choice="random")) for seed in range(3)}
    assert draws[1] == last(build(samples, 1, demonstration_choice="random"))
    assert draws[0] != draws[1] != draws[2]
    assert len(set(draws[0][8:])) > 1
    assert all(f"\n\ns{i}\n\n" not in draws[seed][i] for i in range(8) for seed in draws)


@given(
    st.lists(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=4), min_size=1, max_size=5),
    st.sampled_from(["first", "random", "shortest", "none"]),
    st.integers(0, 5),
    st.randoms(use_true_random=False),
)
def test_groups_may_come_one_by_one_in_any_order(make_sample, groups, choice, seed, chance):
    """What the samples of a step are shown does not depend on which group was scored first."""
    config = SelfDistillationConfig(demonstration_choice=choice)
    made = [
        [
            make_sample(f"u{number}", float(solved), f"{number}.{copy}" + "x" * copy, "no" * told)
            for copy, (solved, told) in enumerate(group)
        ]
        for number, group in enumerate(groups)
    ]
    together = write_reprompts([sample for group in made for sample in group], config, encode, seed)
    arrived = list(range(len(made)))
    chance.shuffle(arrived)
    apart = {number: write_reprompts(made[number], config, encode, seed) for number in arrived}
    assert [reprompt for number in range(len(made)) for reprompt in apart[number]] == together


def test_feedback_can_be_switched_off(make_sample):
    found = build([make_sample(feedback="wrong")], include_environment_feedback=False)
    assert found.self_distillation_mask == [0.0]
    assert found.metrics["self_distillation/feedback_available_fraction"] == 0.0
    assert "self_distillation/reprompt_len/mean" not in found.metrics


def test_demonstration_alone_makes_a_conversation():
    settings = SelfDistillationConfig(solution_template="[{successful_previous_attempt}]")
    found = demonstration_messages([{"role": "user", "content": "Q"}], "<think>a</think>S", settings)
    assert found == [{"role": "user", "content": "Q[S]\n\nCorrectly solve the original question."}]


def test_a_template_file_is_read_once(make_sample, tmp_path):
    file = tmp_path / "template.txt"
    file.write_text("A {prompt}{solution}{feedback}")
    settings = SelfDistillationConfig(reprompt_template=f"file:{file}")
    first = build_reprompts([make_sample(feedback="f")], settings, encode, 0)
    file.write_text("B {prompt}{solution}{feedback}")
    again = build_reprompts([make_sample(feedback="f")], settings, encode, 0)
    assert last(first) == last(again) and last(first)[0].startswith("A Q_u")


def test_reprompting_does_not_import_torch():
    code = "import verl.self_distillation.reprompt, sys; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
