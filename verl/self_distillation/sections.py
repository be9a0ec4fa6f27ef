"""Choose what the teacher of each sample is shown: a sibling's success, the environment's feedback, its own attempt.

Plain functions on scored samples. Groups are keyed by uid, and nothing looks beyond a group: the samples of a step can
be given all together, or group by group as they are scored, and the choices are the same.
"""

from __future__ import annotations

import random
import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from verl.config.self_distillation import SelfDistillationConfig
from verl.types import Sample

_CLOSED_THINKING = re.compile(r"<think>.*?</think>\s*", re.DOTALL)


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
    texts = [
        remove_thinking(sample.response_text) if config.remove_thinking_from_demonstration else sample.response_text
        for sample in samples
    ]
    chosen: list[Sections] = []
    num_seen: Counter[str] = Counter()
    for index, sample in enumerate(samples):
        draw = f"{seed}/{sample.uid}/{num_seen[sample.uid]}"
        num_seen[sample.uid] += 1
        shown = choose_demonstration(index, successes.get(sample.uid, []), texts, config, draw)
        has_room = shown is None or not config.environment_feedback_only_without_solution
        is_failure = sample.reward.score < config.success_reward_threshold
        chosen.append(
            Sections(
                demonstration=None if shown is None else texts[shown],
                feedback=feedback[index] if has_room else None,
                attempt=texts[index] if is_failure else None,
            )
        )
    return chosen


def collect_feedback(samples: Sequence[Sample], config: SelfDistillationConfig) -> list[str | None]:
    """Each sample's feedback; None when it is blank or `include_environment_feedback` is off."""
    if not config.include_environment_feedback:
        return [None] * len(samples)
    return [sample.reward.feedback if sample.reward.feedback.strip() else None for sample in samples]


def successes_by_uid(samples: Sequence[Sample], threshold: float) -> dict[str, list[int]]:
    """Positions of the samples whose score reaches the threshold, by group, in batch order."""
    found: dict[str, list[int]] = defaultdict(list)
    for index, sample in enumerate(samples):
        if sample.reward.score >= threshold:
            found[sample.uid].append(index)
    return dict(found)


def remove_thinking(text: str) -> str:
    """Delete each closed <think>...</think> with the white space after it; an unclosed <think> stays."""
    return _CLOSED_THINKING.sub("", text)


def choose_demonstration(
    index: int, successes: Sequence[int], texts: Sequence[str], config: SelfDistillationConfig, draw: str
) -> int | None:
    """Position of the success that sample `index` is shown; None when its group has no (other) success.

    Args:
        index: position of the sample.
        successes: positions of its group's successes, in batch order.
        texts: demonstration text of every sample (`shortest` counts its characters).
        config: `demonstration_choice` and `dont_reprompt_on_self_success`.
        draw: seed of the choice with `random`: the step's seed, the uid and the sample's place in its group.
    """
    candidates = [i for i in successes if not (config.dont_reprompt_on_self_success and i == index)]
    if not candidates:
        return None
    if config.demonstration_choice == "random":
        return random.Random(draw).choice(candidates)
    if config.demonstration_choice == "shortest":
        return min(candidates, key=lambda i: len(texts[i]))
    return candidates[0]
