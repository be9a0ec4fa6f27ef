"""Rows of supervised fine-tuning: a prompt as the chat template writes it, and the response that should follow."""

from __future__ import annotations

import array
import hashlib
from collections.abc import Iterable, Sequence
from typing import Any, Protocol

from rich.progress import track

from verl.config.root import SFTDataConfig
from verl.dataset.encoding import ChatTokenizer, encode_row
from verl.dataset.parquet import NUM_ROWS_WORTH_A_BAR, RawRow, SchemaError, read_messages, read_rows, read_text
from verl.protocol import Row
from verl.types import Message


class TextTokenizer(ChatTokenizer, Protocol):
    """A chat tokenizer that also encodes plain text."""

    eos_token_id: Any

    def encode(self, text: str, *, add_special_tokens: bool) -> Any: ...


class SFTDataset(list[Row]):
    """Rows with a prompt (messages, or a text that becomes one user message) and a response (text).

    The response's tokens end with the end-of-sequence token, and all of them are learnt.

    Raises:
        SchemaError: a file or row is malformed, or prompt plus response is longer than `data.max_length`.
    """

    def __init__(self, files: Sequence[str], tokenizer: TextTokenizer, config: SFTDataConfig) -> None:
        rows = list(read_rows(files, [config.prompt_key, config.response_key]))
        if not rows:
            raise SchemaError(f"{', '.join(files)}: the file has no rows.")
        bar = track(rows, "Tokenising rows", disable=len(rows) < NUM_ROWS_WORTH_A_BAR)
        super().__init__(_read_row(index, row, tokenizer, config) for index, row in enumerate(bar))


def _read_row(index: int, row: RawRow, tokenizer: TextTokenizer, config: SFTDataConfig) -> Row:
    messages: list[Message]
    if isinstance(row.values[config.prompt_key], str):
        messages = [{"role": "user", "content": read_text(row, config.prompt_key)}]
    else:
        messages = read_messages(row, config.prompt_key)
    prompt_ids = encode_row(row, tokenizer, messages, config.apply_chat_template_kwargs)
    response = read_text(row, config.response_key)
    response_ids = [*tokenizer.encode(response, add_special_tokens=False), tokenizer.eos_token_id]
    num_tokens = len(prompt_ids) + len(response_ids)
    if num_tokens > config.max_length:
        raise SchemaError(
            f"{row}: prompt and response have {num_tokens} tokens together, data.max_length={config.max_length}."
            " Raise it, or leave the row out."
        )
    return Row(prompt_ids=prompt_ids, response_ids=response_ids, response_mask=[1] * len(response_ids), index=index)


def fingerprint_rows(rows: Iterable[Row]) -> str:
    """A digest of the tokens of all rows, so that a resumed run notices other data, another order or tokenizer."""
    digest = hashlib.sha256()
    for row in rows:
        for token_ids in (row.prompt_ids, row.response_ids):
            digest.update(array.array("q", [len(token_ids), *token_ids]).tobytes())
    return digest.hexdigest()
