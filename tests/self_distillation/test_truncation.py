"""A teacher prompt that is too long loses shown text, and never anything else."""

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from verl.config import SelfDistillationConfig
from verl.self_distillation.reprompt import build_reprompts
from verl.self_distillation.truncation import cut, fit

TEXTS = st.text(alphabet="ab {}\n", max_size=40)
SIDES = st.sampled_from(["left", "right"])


def by_character(messages):
    return [ord(c) for m in messages for c in f"<{m['role']}>{m['content']}"] + [0] * 7


def by_word(messages):
    return [len(word) for m in messages for word in f"<{m['role']}> {m['content']}".split()] + [0] * 7


def is_part(text, whole, side):
    return whole.startswith(text) if side == "right" else whole.endswith(text)


@settings(max_examples=60)
@given(st.lists(TEXTS, min_size=1, max_size=3), st.integers(0, 150), SIDES)
def test_the_longest_texts_are_cut_and_no_more_than_needed(texts, limit, side):
    def encode(kept):
        return list(range(10 + sum(map(len, kept))))

    found = fit(texts, encode, limit, side)
    if found is None:
        assert limit < 10
        return
    assert len(found.token_ids) <= limit and found.token_ids == encode(found.texts)
    assert found.is_shortened == (found.texts != texts)
    shortened = [i for i, text in enumerate(texts) if found.texts[i] != text]
    for index in shortened:
        assert is_part(found.texts[index], texts[index], side)
        assert len(found.texts[index]) == max(map(len, found.texts))
    if shortened:  # one more character of each would be too long
        assert len(found.token_ids) + len(shortened) > limit


def test_the_longer_section_goes_first_by_hand():
    def encode(kept):
        return list("".join(kept))

    assert fit(["abcdefgh", "xyz"], encode, 8, "right").texts == ["abcde", "xyz"]
    assert fit(["abcdefgh", "xyz"], encode, 8, "left").texts == ["defgh", "xyz"]
    assert fit(["abcdefgh", "xyz"], encode, 5, "right").texts == ["ab", "xy"]
    assert cut("abc", 0, "left") == cut("abc", 0, "right") == ""


@settings(max_examples=60)
@given(TEXTS, TEXTS, st.integers(1, 400), SIDES, st.sampled_from([by_character, by_word]))
def test_template_question_and_system_message_survive(make_sample, shown, feedback, limit, side, encode):
    assume(feedback.strip())
    messages = [{"role": "system", "content": "System!"}, {"role": "user", "content": "Question?"}]
    samples = [
        make_sample(score=1.0, text=shown, messages=messages),
        make_sample(score=0.0, feedback=feedback, messages=messages),
    ]
    config = SelfDistillationConfig(
        max_reprompt_len=limit, reprompt_truncation=side, environment_feedback_only_without_solution=False
    )
    found = build_reprompts(samples, config, encode, 0)
    teacher = found.messages[1]
    assert teacher[0] == messages[0]
    if not found.teacher_prompt_ids[1]:
        assert teacher == messages and found.metrics["self_distillation/reprompt_dropped_fraction"] == 0.5
        assert found.metrics["self_distillation/reprompt_sample_fraction"] == 0.0
        return
    assert found.teacher_prompt_ids[1] == encode(teacher) and len(encode(teacher)) <= limit
    content = teacher[1]["content"]
    before, after = "Question?\nCorrect solution:\n\n", "\n\nCorrectly solve the original question."
    middle = "\nThe following is feedback from your unsuccessful earlier attempt:\n\n"
    assert content.startswith(before) and content.endswith(after)
    kept_shown, kept_feedback = content[len(before) : -len(after)].split(middle)
    assert is_part(kept_shown, shown, side) and is_part(kept_feedback, feedback, side)
    is_shortened = (kept_shown, kept_feedback) != (shown, feedback)
    assert found.metrics["self_distillation/reprompt_truncated_fraction"] == is_shortened / 2


def test_the_attempt_is_shortened_too_when_the_template_shows_it(make_sample):
    config = SelfDistillationConfig(
        reprompt_template="{prompt}{attempt}|{solution}{feedback}",
        feedback_template="{feedback_raw}",
        max_reprompt_len=24,
    )
    found = build_reprompts([make_sample(text="x" * 50, feedback="no")], config, by_character, 0)
    assert found.messages[0][-1]["content"] == "Q_uxxxxx|no"


def test_error_names_sample_length_and_limit_only_when_really_too_long(make_sample):
    samples = [make_sample(score=1.0, text="S"), make_sample(text="x" * 500)]
    limit = len(by_character(build_reprompts(samples, SelfDistillationConfig(), by_character, 0).messages[1]))
    fits = SelfDistillationConfig(reprompt_truncation="error", max_reprompt_len=limit)
    assert build_reprompts(samples, fits, by_character, 0).self_distillation_mask == [0.0, 1.0]
    tight = SelfDistillationConfig(reprompt_truncation="error", max_reprompt_len=limit - 1)
    with pytest.raises(ValueError, match=f"response 0 .*{limit} tokens, max_reprompt_len={limit - 1}"):
        build_reprompts(samples, tight, by_character, 0)
