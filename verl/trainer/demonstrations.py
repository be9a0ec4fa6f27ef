"""Solutions that the policy found, put before the teacher again: does it still follow what it is shown?"""

from __future__ import annotations

from collections.abc import Sequence

from verl.config.self_distillation import SelfDistillationConfig
from verl.protocol import Row
from verl.self_distillation.reprompt import Encode, demonstration_messages
from verl.types import Sample

MAX_PROMPTS = 64
"""Examples of a kind that are looked at: enough for a warning, cheap for a large model."""


def demonstration_rows(samples: Sequence[Sample], settings: SelfDistillationConfig, encode: Encode) -> list[Row]:
    """For each group with a success one row: the teacher is shown it, and asked for it back.

    At most `MAX_PROMPTS`; prompts longer than `max_reprompt_len` are left out. `Row.index` is the sample's place.
    """
    firsts: dict[str, int] = {}
    for index, sample in enumerate(samples):
        if sample.reward.score >= settings.success_reward_threshold and any(sample.rollout.response_mask):
            firsts.setdefault(sample.uid, index)
    rows: list[Row] = []
    for index in list(firsts.values())[:MAX_PROMPTS]:
        sample = samples[index]
        prompt_ids = encode(demonstration_messages(sample.prompt.messages, sample.response_text, settings))
        if len(prompt_ids) <= settings.max_reprompt_len:
            rollout = sample.rollout
            rows.append(
                Row(
                    prompt_ids=rollout.prompt_ids,
                    response_ids=rollout.response_ids,
                    response_mask=rollout.response_mask,
                    teacher_prompt_ids=prompt_ids,
                    index=index,
                )
            )
    return rows
