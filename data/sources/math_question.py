"""The form of a mathematics question: the answer is asked for in a box, and compared as mathematics."""

from __future__ import annotations

from data.schema import Question


def math_question(problem: str, answer: str, dataset: str, elo: int | str | None = "-") -> Question:
    """A question whose answer is a number or an expression."""
    prompt = f"{problem}\n\nPlease reason step by step, and put your final answer within \\boxed{{}}."
    return Question("math", dataset, prompt, description=problem, answer=answer, elo=elo)
