"""SciKnowEval, four domains: the reasoning questions (level L3) with four or two options."""

from __future__ import annotations

from functools import partial

from data.rows import Row
from data.schema import Question
from data.sources.base import Hub, LeftOut, Source
from data.sources.choices import option_lines

_TYPES = {"mcq-4-choices": "four", "mcq-2-choices": "two"}
ELO = 1500
"""The set rates nothing; the published files give every question this number."""


def _convert(row: Row, domain: str) -> Question | LeftOut:
    if row.text("domain").lower().removesuffix("s") != domain.lower().removesuffix("s"):  # Material, Materials
        return LeftOut("another domain")
    if row.nested("details").text("level") != "L3":
        return LeftOut("another level than L3")
    kind = row.text("type")
    if kind not in _TYPES:
        return LeftOut("no multiple choice")
    choices = row.nested("choices")
    labels, answer = choices.texts("label"), row.text("answerKey").strip()
    if answer not in labels:
        raise row.problem("answerKey", f"one of {', '.join(labels)}")
    question = row.text("question")
    return Question(
        "mcq",
        "sciknoweval",
        prompt=f"{question}\n\n{option_lines(choices.texts('text'), labels)}\nPlease reason step by step.",
        description=question,
        answer=answer,
        elo=ELO,
        system=_system(_TYPES[kind], labels),
    )


def _system(number: str, labels: list[str]) -> str:
    letters = f"{', '.join(labels[:-1])} or {labels[-1]}"
    return (
        f"You are given a question with {number} options, of which one is right. Answer in this form:\n"
        "<reasoning>\nyour reasoning\n</reasoning>\n<answer>\nthe letter\n</answer>\n\n"
        f"Between <answer> and </answer>, write the letter of the right option ({letters}) and nothing else."
    )


def _source(domain: str) -> Source:
    columns = ("question", "choices", "answerKey", "type", "domain", "details")
    return Source(Hub("hicai-zju/SciKnowEval", "test"), columns, partial(_convert, domain=domain))


BIOLOGY = _source("Biology")
CHEMISTRY = _source("Chemistry")
MATERIAL = _source("Material")
PHYSICS = _source("Physics")
