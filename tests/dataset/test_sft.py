"""Rows of supervised fine-tuning against hand-written ones."""

import pytest

from verl.config.root import SFTDataConfig
from verl.dataset import SFTDataset
from verl.dataset.parquet import SchemaError
from verl.protocol import Row


def ids(text):
    return [ord(c) for c in text]


def test_text_and_messages_make_the_same_row(tokenizer, write_parquet):
    plain = write_parquet([{"prompt": "hi", "response": "yo"}], "plain.parquet")
    messages = write_parquet([{"prompt": [{"role": "user", "content": "hi"}], "response": "yo"}], "messages.parquet")
    rows = SFTDataset([plain, messages], tokenizer, SFTDataConfig())
    expected = Row(ids("<user>hi>"), [*ids("yo"), 0], [1, 1, 1], index=0)
    assert rows[0] == expected
    assert rows[1].prompt_ids == expected.prompt_ids and rows[1].index == 1


def test_columns_and_template_options_are_configured(tokenizer, write_parquet):
    config = SFTDataConfig(prompt_key="q", response_key="a", apply_chat_template_kwargs={"mark": "!"})
    (row,) = SFTDataset([write_parquet([{"q": "hi", "a": "yo"}])], tokenizer, config)
    assert row.prompt_ids == ids("<user>hi!>")


def test_rows_that_cannot_be_used_are_named(tokenizer, write_parquet):
    file = write_parquet([{"prompt": "hi", "response": "yo"}, {"prompt": "hi", "response": None}])
    with pytest.raises(SchemaError, match=r"row 1 .*column 'response': found None, expected a text"):
        SFTDataset([file], tokenizer, SFTDataConfig())
    with pytest.raises(SchemaError, match=r"row 0 .*12 tokens together, data\.max_length=11"):
        SFTDataset([file], tokenizer, SFTDataConfig(max_length=11))
