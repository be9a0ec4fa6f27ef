"""The task of the embedded model: use a home-automation API whose version 2 nobody documented.

The model is pre-trained on call logs of version 1. The environment runs version 2, in which some devices want another
verb, another key or another order of the arguments. What reinforcement learning has to find are 32 x 3 hidden
conventions: held-out prompts test generalisation over rooms and levels, not over devices. It is adaptation to an
undocumented API, not reasoning. The scorer and its errors are `verl.rewards.home_api`.

Everything is drawn from fixed seeds, in plain Python: no torch, so that the data are made in a moment.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, replace
from functools import cache
from typing import Any, Literal

from verl.rewards.home_api import Call
from verl.types import Message

DEVICES = [
    "alarm", "blinds", "boiler", "camera", "clock", "curtain", "dishwasher", "dryer", "fan", "fountain",
    "freezer", "fridge", "gate", "heater", "humidifier", "kettle", "lamp", "lock", "mirror", "mower", "oven",
    "projector", "pump", "purifier", "radio", "screen", "shower", "speaker", "sprinkler", "toaster", "vacuum",
    "washer",
]  # fmt: skip
ROOMS = ["attic", "basement", "bathroom", "bedroom", "garage", "hallway", "kitchen", "office"]
LEVELS = range(1, 10)
VERBS = ["set", "put", "turn", "dial", "move", "make", "push", "tune"]
KEYS = ["level", "power", "rate", "gain", "amount", "value", "speed", "degree"]

NUM_HELD_OUT = 256
SPLIT_SEED, V1_SEED, V2_SEED = 7, 1, 36
VERB_CHANGE, KEY_CHANGE, ORDER_CHANGE = 0.4, 0.4, 0.25
"""How likely version 2 differs from version 1, slot by slot."""

Feedback = Literal["weak", "strong"]


@dataclass(frozen=True)
class Convention:
    """How one device wants to be called."""

    verb: str
    key: str
    order: Literal["first", "last"]


def changed(convention: Convention, rng: random.Random, verb: float, key: float, order: float) -> Convention:
    """The convention with each slot changed, for certain to something else, with the given probability."""
    if rng.random() < verb:
        convention = replace(convention, verb=rng.choice([word for word in VERBS if word != convention.verb]))
    if rng.random() < key:
        convention = replace(convention, key=rng.choice([word for word in KEYS if word != convention.key]))
    if rng.random() < order:
        convention = replace(convention, order="last" if convention.order == "first" else "first")
    return convention


@cache
def version_1() -> dict[str, Convention]:
    """What the base model was taught."""
    rng = random.Random(V1_SEED)
    return {d: Convention(rng.choice(VERBS), rng.choice(KEYS), rng.choice(["first", "last"])) for d in DEVICES}


@cache
def version_2() -> dict[str, Convention]:
    """What the environment wants."""
    rng = random.Random(V2_SEED)
    return {d: changed(c, rng, VERB_CHANGE, KEY_CHANGE, ORDER_CHANGE) for d, c in version_1().items()}


@dataclass(frozen=True)
class Question:
    """One prompt, without the convention that answers it."""

    device: str
    room: str
    level: int

    @property
    def text(self) -> str:
        return f"{self.device} in the {self.room} to {self.level}"

    @property
    def messages(self) -> list[Message]:
        return [{"role": "user", "content": self.text}]

    def answer(self, convention: Convention, feedback: Feedback = "weak") -> Call:
        return Call(
            self.device, self.room, self.level, convention.verb, convention.key, convention.order, feedback=feedback
        )


@cache
def splits() -> dict[str, list[Question]]:
    """`train` (2,048) and `test` (256) questions; every device occurs in both."""
    questions = [Question(device, room, level) for device in DEVICES for room in ROOMS for level in LEVELS]
    random.Random(SPLIT_SEED).shuffle(questions)
    return {"train": questions[NUM_HELD_OUT:], "test": questions[:NUM_HELD_OUT]}


def rl_rows(split: Literal["train", "test"], feedback: Feedback) -> list[dict[str, Any]]:
    """Rows in the parquet schema of the RL trainer."""
    rows = []
    for index, question in enumerate(splits()[split]):
        truth = question.answer(version_2()[question.device], feedback)
        rows.append(
            {
                "prompt": question.messages,
                "data_source": "home_api",
                "ability": "tool_use",
                "reward_model": {"style": "rule", "ground_truth": truth.to_json()},
                "extra_info": {"split": split, "index": str(index), "problem": question.text},
            }
        )
    return rows
