"""The shipped tokenizer and model: exact round trips, one token per word, and the skills SDPO needs of the base."""

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoConfig, AutoTokenizer

from recipes.embedded.make_tokenizer import make_tokenizer
from recipes.embedded.mixture import teacher_messages
from recipes.embedded.task import splits, version_1, version_2
from recipes.minimal_sdpo import MODEL, MinimalSDPO, Settings, generate

TOKENIZER = AutoTokenizer.from_pretrained(MODEL)


@given(st.text())
def test_any_text_survives_the_round_trip(text):
    assert TOKENIZER.decode(TOKENIZER.encode(text, add_special_tokens=False)) == text


def test_words_of_the_task_are_one_token_and_others_are_bytes():
    assert TOKENIZER.tokenize("unknown verb set.") == ["unknown", "Ġverb", "Ġset", "."]
    assert TOKENIZER.tokenize("shower.move(room=attic,value=6)") == [
        *["shower", ".", "move", "(", "room", "=", "attic", ",", "value", "=", "6", ")"]
    ]
    assert TOKENIZER.tokenize("verbs ü") == ["v", "e", "r", "b", "s", "Ġ", "Ã", "¼"]


def test_shipped_tokenizer_is_the_one_that_the_script_makes():
    assert TOKENIZER.get_vocab() == make_tokenizer().get_vocab()
    assert TOKENIZER.chat_template == make_tokenizer().chat_template


def test_chat_template_takes_every_role_and_ignores_unknown_arguments():
    chat = [
        {"role": "system", "content": "S"},
        {"role": "user", "content": "A"},
        {"role": "assistant", "content": "B"},
        {"role": "user", "content": "C"},
    ]
    text = TOKENIZER.apply_chat_template(chat, add_generation_prompt=True, tokenize=False, enable_thinking=False)
    assert text == "<|system|>S<|user|>A<|assistant|>B<|end|><|user|>C<|assistant|>"
    with pytest.raises(Exception, match="role tool"):
        TOKENIZER.apply_chat_template([{"role": "tool", "content": "x"}], tokenize=False)


def test_special_tokens_are_where_engines_look_for_them():
    config = AutoConfig.from_pretrained(MODEL)
    assert (TOKENIZER.eos_token, TOKENIZER.pad_token) == ("<|end|>", "<|pad|>")
    assert (config.eos_token_id, config.vocab_size) == (TOKENIZER.eos_token_id, len(TOKENIZER))
    assert sum(file.stat().st_size for file in Path(MODEL).iterdir()) < 4_000_000


@pytest.fixture(scope="module")
def base():
    torch.set_num_threads(1)
    return MinimalSDPO(Settings())


def test_base_knows_version_1_only(base):
    assert 0.08 < base.evaluate(num_samples=4) < 0.20


def answers(base, chats):
    prompts = [base.encode(chat) for chat in chats]
    return [base.tokenizer.decode(ids[:-1]) for ids, _ in generate(base.student, prompts, base.end, base.generator)]


def test_base_copies_a_shown_solution(base):
    questions = splits()["test"]
    wanted = [question.answer(version_2()[question.device]).text for question in questions]
    written = answers(base, [teacher_messages(q, solution=w) for q, w in zip(questions, wanted, strict=True)])
    assert sum(a == b for a, b in zip(written, wanted, strict=True)) / len(wanted) >= 0.95


def share_with(word_of, questions, texts):
    return sum(word_of(question) in text for question, text in zip(questions, texts, strict=True)) / len(questions)


def test_base_turns_away_from_a_refused_verb(base):
    known, wanted = version_1(), version_2()
    questions = [q for q in splits()["test"] if known[q.device].verb != wanted[q.device].verb]
    errors = [f"unknown verb {known[q.device].verb}." for q in questions]
    plain = answers(base, [q.messages for q in questions])
    told = answers(base, [teacher_messages(q, feedback=e) for q, e in zip(questions, errors, strict=True)])
    assert share_with(lambda q: f".{known[q.device].verb}(", questions, plain) > 0.6
    assert share_with(lambda q: f".{known[q.device].verb}(", questions, told) < 0.2


def test_base_keeps_what_an_error_says_was_accepted(base):
    known, wanted = version_1(), version_2()
    questions = [q for q in splits()["test"] if known[q.device].key != wanted[q.device].key]
    errors = [f"{wanted[q.device].verb}: unknown key {known[q.device].key}." for q in questions]
    told = answers(base, [teacher_messages(q, feedback=e) for q, e in zip(questions, errors, strict=True)])
    assert share_with(lambda q: f".{wanted[q.device].verb}(", questions, told) > 0.95
    assert share_with(lambda q: f"{known[q.device].key}=", questions, told) < 0.2
