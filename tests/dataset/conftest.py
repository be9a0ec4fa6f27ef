"""A tokenizer of single characters and small parquet files."""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest


class CharacterTokenizer:
    """`<role>content` for each message, `>` as the generation prompt; one token for each character."""

    eos_token_id = 0

    def apply_chat_template(self, conversation, add_generation_prompt, mark="", **kwargs):
        text = "".join(f"<{m['role']}>{m['content']}" for m in conversation) + mark
        return self.encode(text + (">" if add_generation_prompt else ""), add_special_tokens=False)

    def encode(self, text, *, add_special_tokens):
        return [ord(c) for c in text]


@pytest.fixture
def tokenizer():
    return CharacterTokenizer()


@pytest.fixture
def write_parquet(tmp_path):
    def write(rows, name="data.parquet"):
        pq.write_table(pa.Table.from_pylist(rows), tmp_path / name)
        return str(tmp_path / name)

    return write
