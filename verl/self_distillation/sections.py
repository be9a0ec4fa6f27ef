"""Choose what the teacher of each sample is shown: a sibling's success, the environment's feedback, its own attempt.

Plain functions on scored samples. Groups are keyed by uid, and nothing looks beyond a group: the samples of a step can
be given all together, or group by group as they are scored, and the choices are the same.
"""

from __future__ import annotations

import functools
import random
import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace

from verl.config.self_distillation import SelfDistillationConfig
from verl.types import Sample


@dataclass(frozen=True)
class Sections:
    """The texts that the teacher is shown and the student is not; None where there is nothing to show."""

    demonstration: str | None = None
    feedback: str | None = None
    attempt: str | None = None

    @property
    def has_target(self) -> bool:
        """Whether they tell the teacher anything the student did not know."""
        return self.demonstration is not None or self.feedback is not None


def choose_sections(samples: Sequence[Sample], config: SelfDistillationConfig, seed: int) -> list[Sections]:
    """What the teacher of each sample is shown, before any shortening. Groups must be complete."""
    feedback = collect_feedback(samples, config)
    successes = successes_by_uid(samples, config.success_reward_threshold)
    texts = [demonstration_text(sample.response_text, config) for sample in samples]
    chosen: list[Sections] = []
    num_seen: Counter[str] = Counter()
    for index, sample in enumerate(samples):
        draw = f"{seed}/{sample.uid}/{num_seen[sample.uid]}"
        num_seen[sample.uid] += 1
        shown = choose_demonstration(index, successes.get(sample.uid, []), texts, config, draw)
        sections = combine(None if shown is None else texts[shown], feedback[index], config)
        is_failure = sample.reward.score < config.success_reward_threshold
        chosen.append(replace(sections, attempt=texts[index] if is_failure else None))
    return chosen


def combine(demonstration: str | None, feedback: str | None, config: SelfDistillationConfig) -> Sections:
    """What is shown of a demonstration and a feedback text, either None where there is none.

    Blank feedback is none; beside a demonstration it has room unless `environment_feedback_only_without_solution`.
    """
    has_room = demonstration is None or not config.environment_feedback_only_without_solution
    is_told = config.include_environment_feedback and feedback is not None and bool(feedback.strip())
    return Sections(demonstration, feedback if is_told and has_room else None)


def collect_feedback(samples: Sequence[Sample], config: SelfDistillationConfig) -> list[str | None]:
    """Each sample's feedback; None when it is blank or `include_environment_feedback` is off."""
    return [combine(None, sample.reward.feedback, config).feedback for sample in samples]


def successes_by_uid(samples: Sequence[Sample], threshold: float) -> dict[str, list[int]]:
    """Positions of the samples whose score reaches the threshold, by group, in batch order."""
    found: dict[str, list[int]] = defaultdict(list)
    for index, sample in enumerate(samples):
        if sample.reward.score >= threshold:
            found[sample.uid].append(index)
    return dict(found)


def demonstration_text(response_text: str, config: SelfDistillationConfig) -> str:
    """What of a response is shown as a demonstration or attempt: all, or all but its thinking."""
    if not config.remove_thinking_from_demonstration:
        return response_text
    return remove_thinking(response_text, config.thinking_tag)


def remove_thinking(text: str, tag: str | None = "<think>") -> str:
    """Delete each closed <think>...</think> with the white space after it; an unclosed <think> stays.

    Args:
        text: a response.
        tag: opening tag of the blocks; the closing one has a slash after its first character. None or empty: the text
            stays as it is.
    """
    return _closed_thinking(tag).sub("", text) if tag else text


@functools.cache
def _closed_thinking(tag: str) -> re.Pattern[str]:
    """Matches a block, as short as possible, and the white space after it."""
    closing = f"{tag[0]}/{tag[1:]}"
    return re.compile(rf"{re.escape(tag)}.*?{re.escape(closing)}\s*", re.DOTALL)


def choose_demonstration(
    index: int, successes: Sequence[int], texts: Sequence[str], config: SelfDistillationConfig, draw: str
) -> int | None:
    """Position of the success that sample `index` is shown; None when its group has no (other) success, or when
    none is to be shown.

    Args:
        index: position of the sample.
        successes: positions of its group's successes, in batch order.
        texts: demonstration text of every sample (`shortest` counts its characters).
        config: `demonstration_choice` and `dont_reprompt_on_self_success`.
        draw: seed of the choice with `random`: the step's seed, the uid and the sample's place in its group.
    """
    candidates = [i for i in successes if not (config.dont_reprompt_on_self_success and i == index)]
    if not candidates or config.demonstration_choice == "none":
        return None
    if config.demonstration_choice == "random":
        return random.Random(draw).choice(candidates)
    if config.demonstration_choice == "shortest":
        return min(candidates, key=lambda i: len(texts[i]))
    return candidates[0]
