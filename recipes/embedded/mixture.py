"""What the embedded model is pre-trained on: version 1, and the skill of using a solution or an error once it is shown.

Three kinds of rows; only the response is learnt:

| share | context                            | response                                                            |
|-------|------------------------------------|---------------------------------------------------------------------|
| 35 %  | the plain prompt                   | version 1's call, each slot replaced with probability .2            |
| 20 %  | reprompt that shows a solution     | that solution, of a random convention: teaches copying              |
| 45 %  | reprompt that shows an error       | a call of a random convention under which the error makes sense     |

Nothing of version 2 is in it, save by chance, and no held-out prompt. Without the second row SDPO cannot work: a
teacher that copies a shown solution in less than about 95 % of the cases teaches its own mistakes.
"""

from __future__ import annotations

import random
from typing import Any

from recipes.embedded.task import KEYS, VERBS, Convention, Feedback, Question, changed, splits, version_1
from verl.config.self_distillation import SelfDistillationConfig
from verl.rewards.home_api import complaint
from verl.self_distillation.reprompt import render_messages
from verl.self_distillation.sections import Sections
from verl.types import Message

PLAIN_SHARE, SOLUTION_SHARE = 0.35, 0.20
"""The rest shows an error."""
NOISE = (0.2, 0.2, 0.1)
"""How likely a slot of a plain call is replaced: leaves the model something to explore with."""
CHANGE = 0.5
"""How likely a slot of a random convention differs from version 1."""
ERROR_CHANGE = (0.4, 0.4, 0.25)
"""The same for verb, key and order, where an error is shown: as often as version 2 changes them."""
KEPT = 0.9
"""How often the attempt behind a shown error is right in a slot that did not change."""
TRIED = (0.4, 0.2, 0.4)
"""What it has in a slot that did: the old word, the new one, any."""
STRONG_SHARE = 0.33
"""Share of the errors that name the right word; the others are of the weak kind."""


_CONFIG = SelfDistillationConfig()


def teacher_messages(question: Question, solution: str | None = None, feedback: str | None = None) -> list[Message]:
    """The conversation a teacher is shown, by the default templates."""
    return render_messages(question.messages, Sections(demonstration=solution, feedback=feedback), _CONFIG)


def _attempt(known: Convention, wanted: Convention, rng: random.Random) -> Convention:
    """What a policy half-way between the versions would try: slots that did not change are mostly right."""
    guess = {}
    for slot, words in (("verb", VERBS), ("key", KEYS), ("order", ["first", "last"])):
        old, new = getattr(known, slot), getattr(wanted, slot)
        if old == new:
            guess[slot] = old if rng.random() < KEPT else rng.choice(words)
        else:
            guess[slot] = rng.choices([old, new, rng.choice(words)], TRIED)[0]
    return Convention(**guess)


def _error_row(question: Question, rng: random.Random) -> tuple[list[Message], str]:
    """An error, and a call of a convention under which some attempt raises it."""
    known = version_1()[question.device]
    feedback: Feedback = "strong" if rng.random() < STRONG_SHARE else "weak"
    while True:
        convention = changed(known, rng, *ERROR_CHANGE)
        wanted = question.answer(convention, feedback)
        if error := complaint(question.answer(_attempt(known, convention, rng)).text, wanted):
            return teacher_messages(question, feedback=error), wanted.text


def _row(rng: random.Random) -> dict[str, Any]:
    question = rng.choice(splits()["train"])
    known: Convention = version_1()[question.device]
    kind = rng.random()
    if kind < PLAIN_SHARE:
        prompt, response = question.messages, question.answer(changed(known, rng, *NOISE)).text
    elif kind < PLAIN_SHARE + SOLUTION_SHARE:
        response = question.answer(changed(known, rng, CHANGE, CHANGE, CHANGE)).text
        prompt = teacher_messages(question, solution=response)
    else:
        prompt, response = _error_row(question, rng)
    return {"prompt": prompt, "response": response}


def sft_rows(num_rows: int, seed: int = 0) -> list[dict[str, Any]]:
    """Draw rows for `verl.trainer.main_sft`: `prompt` (messages) and `response` (text)."""
    rng = random.Random(seed)
    return [_row(rng) for _ in range(num_rows)]
