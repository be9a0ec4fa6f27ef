"""From a chat to token ids: the only place, so that student and teacher see their prompts in the same form."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from verl.dataset.parquet import RawRow, SchemaError
from verl.types import Message


class ChatTokenizer(Protocol):
    """What is used of a Hugging Face tokenizer."""

    def apply_chat_template(self, conversation: Any, **kwargs: Any) -> Any: ...


def encode_messages(
    tokenizer: ChatTokenizer, messages: Sequence[Message], template_kwargs: Mapping[str, Any]
) -> list[int]:
    """Token ids of a chat after the chat template, ending in the generation prompt.

    Args:
        tokenizer: a Hugging Face tokenizer with a chat template.
        messages: the chat; its last message is complete.
        template_kwargs: `data.apply_chat_template_kwargs`, such as `enable_thinking`.
    """
    encoded = tokenizer.apply_chat_template(
        list(messages),
        tokenize=True,
        add_generation_prompt=True,
        continue_final_message=False,
        return_dict=False,  # transformers 5 returns a BatchEncoding otherwise
        **template_kwargs,
    )
    return [int(token) for token in encoded]


def encode_row(
    row: RawRow, tokenizer: ChatTokenizer, messages: Sequence[Message], template_kwargs: Mapping[str, Any]
) -> list[int]:
    """`encode_messages` of a row's chat. Raises SchemaError when the template fails or says nothing."""
    try:
        token_ids = encode_messages(tokenizer, messages, template_kwargs)
    except Exception as error:  # a template is a program that comes with the model
        raise SchemaError(f"{row}: the chat template refuses this chat: {type(error).__name__}: {error}") from error
    if not token_ids:
        raise SchemaError(f"{row}: the chat template makes no token of this chat.")
    return token_ids
