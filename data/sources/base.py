"""What a file of this folder defines: a `Source`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from data.rows import Row
from data.schema import Question


@dataclass(frozen=True)
class Hub:
    """Where a set is on the Hugging Face hub."""

    name: str
    split: str
    configs: tuple[str | None, ...] = (None,)
    """Parts that are read one after the other; their columns may differ. None: the set has one part without a name."""
    revision: str | None = None
    files: str | None = None
    """The parquet files in the repository (a pattern), where the hub's own loader cannot read it."""


@dataclass(frozen=True)
class LeftOut:
    """A row that is well-formed but no question of the set; rows are counted by reason."""

    reason: str


NO_TESTS = LeftOut("no tests")


@dataclass(frozen=True)
class Source:
    """One data set."""

    hub: Hub | str
    """Where the set is; a text says what to do when it is not on the hub."""
    columns: tuple[str, ...]
    """The columns that are read, as the set names them."""
    convert: Callable[[Row], Question | LeftOut]
    category: str | None = None
    """The column that `--category` selects by."""
