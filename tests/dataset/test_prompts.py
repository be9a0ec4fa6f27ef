"""Parquet rows become prompts, and rows that cannot are named."""

import logging

import pytest

from verl.config import DataConfig
from verl.dataset import ParquetDataset, encode_messages, fingerprint, load_dataset
from verl.dataset.parquet import SchemaError
from verl.dataset.prompts import cut_tokens


def row(content="hi", **changes):
    values = {
        "prompt": [{"content": content, "role": "user"}],
        "data_source": "sciknoweval",
        "reward_model": {"style": "rule", "ground_truth": "A"},
        "extra_info": {"index": "7"},
        "embedding": [1.0],
    }
    return values | changes


def text(prompt):
    return "".join(map(chr, prompt.token_ids))


def test_a_row_becomes_a_prompt(tokenizer, write_parquet):
    config = DataConfig(apply_chat_template_kwargs={"mark": "!"})
    (prompt,) = ParquetDataset([write_parquet([row()])], tokenizer, config)
    assert prompt.messages == [{"role": "user", "content": "hi"}]
    assert text(prompt) == "<user>hi!>"
    assert (prompt.index, prompt.data_source, prompt.ground_truth, prompt.extra_info) == (
        0,
        "sciknoweval",
        "A",
        {"index": "7"},
    )


def test_files_follow_each_other_and_samples_are_counted_over_all(tokenizer, write_parquet):
    files = [write_parquet([row("a"), row("b")], "1.parquet"), write_parquet([row("c"), row("d")], "2.parquet")]
    prompts = ParquetDataset(files, tokenizer, DataConfig(), 3)
    assert [(p.index, p.messages[0]["content"]) for p in prompts] == [(0, "a"), (1, "b"), (2, "c")]


def test_filtering_leaves_long_prompts_out_and_numbers_the_rest(tokenizer, write_parquet, caplog):
    file = write_parquet([row("long" * 9), row("a"), row("b")])
    config = DataConfig(max_prompt_length=10, filter_overlong_prompts=True)
    with caplog.at_level(logging.WARNING):
        prompts = ParquetDataset([file], tokenizer, config)
    assert [(p.index, p.messages[0]["content"]) for p in prompts] == [(0, "a"), (1, "b")]
    assert "1 of 3 prompts" in caplog.text and "max_prompt_length=10" in caplog.text


def test_long_prompts_are_refused_by_name(tokenizer, write_parquet):
    file = write_parquet([row("a"), row("123456789")])
    with pytest.raises(SchemaError, match=r"1 of 2 .*max_prompt_length=10.*row 1 .*has 16\..*filter_overlong_prompts"):
        ParquetDataset([file], tokenizer, DataConfig(max_prompt_length=10))
    with pytest.raises(SchemaError, match=r"2 of 2 .*the shortest has 8 tokens"):
        ParquetDataset([file], tokenizer, DataConfig(max_prompt_length=5, filter_overlong_prompts=True))


@pytest.mark.parametrize(("side", "kept"), [("left", [3, 4, 5]), ("right", [1, 2, 3]), ("middle", [1, 4, 5])])
def test_cutting_by_hand(side, kept):
    assert cut_tokens([1, 2, 3, 4, 5], 3, side) == kept
    assert cut_tokens([1, 2, 3], 3, side) == [1, 2, 3]


def test_long_prompts_are_cut(tokenizer, write_parquet):
    config = DataConfig(max_prompt_length=8, truncation="left")
    prompts = ParquetDataset([write_parquet([row("12345"), row("1")])], tokenizer, config)
    assert [text(prompt) for prompt in prompts] == ["r>12345>", "<user>1>"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"prompt": "plain text"}, "column 'prompt': found 'plain text', expected a list of messages"),
        ({"prompt": []}, r"column 'prompt': found \[\], expected a list"),
        ({"prompt": [{"role": "user", "content": None}]}, "found None, .*images, audio and video are not supported"),
        ({"data_source": None}, "column 'data_source': found None, expected a text"),
        ({"reward_model": None}, "column 'reward_model': found None, expected a struct with ground_truth"),
    ],
)
def test_a_malformed_row_is_named(tokenizer, write_parquet, changes, message):
    files = [write_parquet([row(), row()], "good.parquet"), write_parquet([row(**changes)])]
    with pytest.raises(SchemaError, match=rf"data\.parquet, row 0 .*{message}"):
        ParquetDataset(files, tokenizer, DataConfig())


def test_files_that_cannot_be_used_are_named(tokenizer, write_parquet, tmp_path):
    with pytest.raises(SchemaError, match=r"nowhere\.parquet: no such file"):
        ParquetDataset(["nowhere.parquet"], tokenizer, DataConfig())
    (tmp_path / "text.parquet").write_text("not parquet")
    with pytest.raises(SchemaError, match="is not a parquet file"):
        ParquetDataset([str(tmp_path / "text.parquet")], tokenizer, DataConfig())
    file = write_parquet([{"question": "q", "data_source": "d"}])
    with pytest.raises(SchemaError, match="lacks column prompt, reward_model; it has question, data_source"):
        ParquetDataset([file], tokenizer, DataConfig())


def test_a_data_set_class_of_your_own(tokenizer, tmp_path):
    (tmp_path / "own.py").write_text(
        "from verl.types import Prompt\n"
        "def good(files, tokenizer, config, max_samples):\n"
        "    return [Prompt(0, [], [1], files[0], None)]\n"
        "def bad(files, tokenizer, config, max_samples):\n"
        "    return ['text']\n"
    )
    own = {"path": str(tmp_path / "own.py")}
    (prompt,) = load_dataset(["f"], tokenizer, DataConfig(custom_cls=custom(name="good", **own)))
    assert prompt.data_source == "f"
    with pytest.raises(ValueError, match="item 0 of bad is a str"):
        load_dataset(["f"], tokenizer, DataConfig(custom_cls=custom(name="bad", **own)))


def custom(**values):
    return type(DataConfig().custom_cls)(**values)


def test_the_fingerprint_sees_data_order_and_template(tokenizer, write_parquet):
    def of(rows, **kwargs):
        config = DataConfig(apply_chat_template_kwargs=kwargs)
        return fingerprint(ParquetDataset([write_parquet(rows)], tokenizer, config))

    other_truth = row("b", reward_model={"style": "rule", "ground_truth": "B"})
    found = [
        of([row("a"), row("b")]),
        of([row("b"), row("a")]),
        of([row("a")]),
        of([row("a"), other_truth]),
        of([row("a"), row("b")], mark="!"),
    ]
    assert len(set(found)) == 5 and of([row("a"), row("b")]) == found[0]


def test_a_real_tokenizer_gives_plain_token_ids():
    tokenizers = pytest.importorskip("tokenizers")
    from transformers import PreTrainedTokenizerFast

    words = {word: number for number, word in enumerate(["[UNK]", "user", "hello", "assistant", "quick"])}
    inner = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="[UNK]"))
    inner.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    real = PreTrainedTokenizerFast(tokenizer_object=inner, unk_token="[UNK]")
    real.chat_template = (
        "{% for m in messages %}{{ m.role }} {{ m.content }} {% endfor %}"
        "{% if add_generation_prompt %}assistant{% endif %}{% if fast %} quick{% endif %}"
    )
    assert encode_messages(real, [{"role": "user", "content": "hello"}], {"fast": True}) == [1, 2, 3, 4]
