"""The prompts of a run: parquet rows, checked, tokenised and held to `data.max_prompt_length`.

Everything is read and tokenised once, at start-up: a malformed row or a prompt that is too long is answered before any
engine has started, and the loop then only picks rows by number.
"""

from __future__ import annotations

import array
import hashlib
import json
import logging
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.progress import track

from verl.config.data import DataConfig
from verl.dataset.encoding import ChatTokenizer, encode_row
from verl.dataset.parquet import NUM_ROWS_WORTH_A_BAR, RawRow, SchemaError, read_messages, read_rows, read_text
from verl.registry import in_user_code, load_from_file
from verl.types import InputError, Prompt

logger = logging.getLogger(__name__)


class ParquetDataset(list[Prompt]):
    """Prompts of parquet files with the columns `prompt`, `data_source`, `reward_model` and, optionally, `extra_info`.

    Args:
        files: read in this order.
        tokenizer: has the chat template.
        config: column names, length limit and what happens to longer prompts.
        max_samples: use only the first so many rows; -1 uses all.

    Raises:
        SchemaError: a file or row is malformed, a prompt is too long (`truncation=error`), or no prompt is left.
    """

    def __init__(
        self, files: Sequence[str], tokenizer: ChatTokenizer, config: DataConfig, max_samples: int = -1
    ) -> None:
        rows = list(read_rows(files, [config.prompt_key, config.reward_fn_key, "reward_model"], ["extra_info"]))
        if max_samples >= 0:
            rows = rows[:max_samples]
        if not rows:
            raise SchemaError(f"{', '.join(files)}: the file has no rows.")
        bar = track(rows, "Tokenising prompts", disable=len(rows) < NUM_ROWS_WORTH_A_BAR)
        prompts = [_read_prompt(row, number, tokenizer, config) for number, row in enumerate(bar)]
        _check_template(prompts)
        kept = _hold_to_length(prompts, rows, config)
        self.row_numbers = [prompt.index for prompt in kept]
        """Where each prompt is among the rows of all files, from 0: overlong ones may have been left out."""
        super().__init__(replace(prompt, index=index) for index, prompt in enumerate(kept))


def _read_prompt(row: RawRow, number: int, tokenizer: ChatTokenizer, config: DataConfig) -> Prompt:
    messages = read_messages(row, config.prompt_key)
    reward_model = row.values["reward_model"]
    if not isinstance(reward_model, dict) or "ground_truth" not in reward_model:
        raise row.problem("reward_model", reward_model, "a struct with ground_truth")
    extra_info = row.values.get("extra_info")
    if not isinstance(extra_info, dict | None):
        raise row.problem("extra_info", extra_info, "a struct or null")
    return Prompt(
        index=number,
        messages=messages,
        token_ids=encode_row(row, tokenizer, messages, config.apply_chat_template_kwargs),
        data_source=read_text(row, config.reward_fn_key),
        ground_truth=reward_model["ground_truth"],
        extra_info=extra_info or {},
    )


def _check_template(prompts: Sequence[Prompt]) -> None:
    """Different chats must look different to the model."""
    first = prompts[0]
    for prompt in prompts:
        if prompt.token_ids != first.token_ids:
            return
    if other := next((prompt for prompt in prompts if prompt.messages != first.messages), None):
        raise SchemaError(
            f"the chat template writes the same {len(first.token_ids)} tokens for every prompt, although rows"
            f" {first.index} and {other.index} differ: it does not look at `messages`. Mend chat_template.jinja."
        )


def _hold_to_length(prompts: list[Prompt], rows: list[RawRow], config: DataConfig) -> list[Prompt]:
    """Filter, cut or refuse prompts longer than the limit, as configured."""
    limit = config.max_prompt_length
    lengths = [len(prompt.token_ids) for prompt in prompts]
    num_long = sum(length > limit for length in lengths)
    if num_long == 0:
        return prompts
    if config.filter_overlong_prompts:
        what = f"{num_long} of {len(prompts)} prompts of {rows[0].file} are longer than data.max_prompt_length={limit}"
        if num_long == len(prompts):
            raise SchemaError(f"{what}; the shortest has {min(lengths)} tokens. Raise the limit.")
        logger.warning("%s tokens and are left out", what)
        return [prompt for prompt, length in zip(prompts, lengths, strict=True) if length <= limit]
    if config.truncation == "error":
        worst = lengths.index(max(lengths))
        raise SchemaError(
            f"{num_long} of {len(prompts)} prompts are longer than data.max_prompt_length={limit} tokens; the longest,"
            f" {rows[worst]}, has {lengths[worst]}. Raise the limit, leave them out with"
            " data.filter_overlong_prompts=True, or cut them with data.truncation=left, right or middle."
        )
    return [replace(prompt, token_ids=cut_tokens(prompt.token_ids, limit, config.truncation)) for prompt in prompts]


def cut_tokens(token_ids: list[int], limit: int, side: str) -> list[int]:
    """At most `limit` tokens: `left` drops the start, `right` the end, `middle` what is between."""
    if len(token_ids) <= limit:
        return token_ids
    num_first = {"left": 0, "right": limit, "middle": limit // 2}[side]
    return token_ids[:num_first] + token_ids[len(token_ids) - (limit - num_first) :]


def load_dataset(
    files: Sequence[str], tokenizer: ChatTokenizer, config: DataConfig, max_samples: int = -1
) -> Sequence[Prompt]:
    """The prompts of `files`, through `data.custom_cls` if it is set (called like `ParquetDataset`).

    Raises InputError when the custom class fails, or does not give a sequence of `Prompt`.
    """
    custom = config.custom_cls
    if custom.path is None:
        return ParquetDataset(files, tokenizer, config, max_samples)
    if custom.name is None:
        raise InputError("data.custom_cls.name=null: name the class in data.custom_cls.path.")
    cls = load_from_file(custom.path, custom.name, "data.custom_cls")
    call = f"data.custom_cls: {custom.name}(files, tokenizer, config, max_samples) of {custom.path}"
    try:
        prompts: Sequence[Any] = cls(files, tokenizer, config, max_samples)
    except InputError:
        raise
    except Exception as error:
        place = in_user_code(error, Path(custom.path).expanduser().resolve())
        raise InputError(f"{call} fails: {place}{type(error).__name__}: {error}") from error
    if not isinstance(prompts, Sequence):
        raise InputError(f"{call} gives a {type(prompts).__name__}; wanted is a sequence of verl.types.Prompt.")
    for index in range(len(prompts)):
        if not isinstance(prompts[index], Prompt):
            raise InputError(
                f"data.custom_cls: item {index} of {custom.name} is a {type(prompts[index]).__name__}, not a"
                " verl.types.Prompt."
            )
    return prompts


def fingerprint(prompts: Iterable[Prompt]) -> str:
    """A digest of everything training sees of the prompts, so that a resumed run notices other data, another order or
    another chat template."""
    digest = hashlib.sha256()
    for prompt in prompts:
        digest.update(array.array("q", prompt.token_ids).tobytes())
        record = [prompt.messages, prompt.data_source, prompt.ground_truth]
        digest.update(json.dumps(record, sort_keys=True, default=str).encode())
    return digest.hexdigest()
