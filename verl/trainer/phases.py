"""What the driver is doing at this moment, so that a run that stands still can say in which phase."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


class Phases:
    """The phases that the driver is in: `with phases("gen"): ...`. They nest. One thread enters, any may look."""

    def __init__(self) -> None:
        self.num_moves = 0
        """Phases entered and left so far: grows as long as the driver gets on."""
        self._names: list[str] = []

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        self._names.append(name)
        self.num_moves += 1
        try:
            yield
        finally:
            self._names.pop()
            self.num_moves += 1

    def __str__(self) -> str:
        return " > ".join(self._names) or "between phases"
