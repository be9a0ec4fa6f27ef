"""Make the embedded model's tokenizer: one token for each word of the task, single bytes for any other text.

A BPE without merges is a dictionary with a byte fallback: `ignore_merges` takes a pre-token that stands in the
vocabulary whole, and with no merge to apply everything else stays single bytes. So any text survives the round trip, a
word carries its leading space, and every engine that reads Hugging Face tokenizers reads this one.
"""

from __future__ import annotations

import re
from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from recipes.embedded.task import DEVICES, KEYS, ROOMS, VERBS
from verl.config.self_distillation import FEEDBACK_TEMPLATE, REPROMPT_TEMPLATE, SOLUTION_TEMPLATE

PAD, END, SYSTEM, USER, ASSISTANT = "<|pad|>", "<|end|>", "<|system|>", "<|user|>", "<|assistant|>"
MAX_LENGTH = 32768

PIECE = r" ?[A-Za-z]+|\n\n|\n|."
"""A word with its space, an empty line, or one character."""

CHAT_TEMPLATE = (
    "{%- for message in messages -%}"
    "{%- if message.role not in ('system', 'user', 'assistant') -%}"
    "{{- raise_exception('role ' ~ message.role ~ ' is not one of system, user, assistant') -}}"
    "{%- endif -%}"
    "{{- '<|' ~ message.role ~ '|>' ~ message.content -}}"
    "{%- if message.role == 'assistant' -%}{{- '<|end|>' -}}{%- endif -%}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- '<|assistant|>' -}}{%- endif -%}"
)

_ERRORS = [
    "unknown verb",
    "no verb",
    ", use",
    ": unknown key",
    ": missing",
    ": room must come first",
    " last",
    "bad call",
]
_TEMPLATES = [REPROMPT_TEMPLATE, SOLUTION_TEMPLATE, FEEDBACK_TEMPLATE]


def _words() -> list[str]:
    """Every piece of the task's texts that is longer than one character, in the vocabulary's spelling."""
    texts = [f"{device} in the {room} to 1" for device, room in zip(DEVICES, ROOMS * 4, strict=True)]
    texts += [f"{device}.{word}" for device, word in zip(DEVICES, VERBS * 4, strict=True)]
    texts += [f"(room={room},{key}" for room, key in zip(ROOMS, KEYS, strict=True)]
    texts += [f" {word}" for word in VERBS + KEYS]
    texts += [*_ERRORS, *(re.sub(r"{\w+}", "", template) for template in _TEMPLATES)]
    pre_tokenizer = _pre_tokenizer()
    pieces = {piece for text in texts for piece, _ in pre_tokenizer.pre_tokenize_str(text)}
    return sorted(piece for piece in pieces if len(piece) > 1)


def _pre_tokenizer() -> pre_tokenizers.PreTokenizer:
    return pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PIECE), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )


def make_tokenizer() -> PreTrainedTokenizerFast:
    """Build the tokenizer: special tokens, 256 bytes, the task's words."""
    special = [PAD, END, SYSTEM, USER, ASSISTANT]
    entries = [*special, *sorted(pre_tokenizers.ByteLevel.alphabet()), *_words()]
    vocab = {entry: index for index, entry in enumerate(dict.fromkeys(entries))}
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=[], ignore_merges=True))
    tokenizer.pre_tokenizer = _pre_tokenizer()  # pyright: ignore[reportAttributeAccessIssue]
    tokenizer.decoder = decoders.ByteLevel()  # pyright: ignore[reportAttributeAccessIssue]
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in special])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=END,
        pad_token=PAD,
        additional_special_tokens=[SYSTEM, USER, ASSISTANT],
        chat_template=CHAT_TEMPLATE,
        model_max_length=MAX_LENGTH,
        clean_up_tokenization_spaces=False,
    )


def save_tokenizer(folder: Path) -> None:
    """Write the files that `AutoTokenizer.from_pretrained(folder)` reads."""
    make_tokenizer().save_pretrained(str(folder))
