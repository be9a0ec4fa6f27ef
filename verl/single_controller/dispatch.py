"""How one call of the driver becomes one call for each rank, declared beside the method it concerns.

The driver writes `group.update_policy(parts)` and never loops over ranks; the decorator says which arguments are cut,
what comes back, and whether results arrive one by one. Nothing here knows Ray, so a worker's file can be read, imported
and tested without it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any, TypeVar

MethodT = TypeVar("MethodT", bound=Callable[..., Any])


class Arguments(Enum):
    """What each rank is given."""

    BROADCAST = "broadcast"
    """Every rank gets all arguments."""
    SPLIT = "split"
    """The first argument is a sequence with one entry for each rank; every rank gets its entry, and all the others."""


class Results(Enum):
    """What the driver gets back."""

    ALL = "all"
    """A list with one result for each rank, in rank order; of a streaming method, the items of all ranks."""
    RANK_ZERO = "rank_zero"
    """Only what rank 0 gave back (all ranks run)."""


@dataclass(frozen=True)
class Rule:
    """What `dispatch` declared about a method."""

    arguments: Arguments = Arguments.BROADCAST
    results: Results = Results.ALL
    streams: bool = False


def dispatch(
    arguments: Arguments = Arguments.BROADCAST, results: Results = Results.ALL, streams: bool = False
) -> Callable[[MethodT], MethodT]:
    """Let the driver call a worker's method through its group.

    Args:
        arguments: what each rank is given.
        results: what comes back.
        streams: the method is a generator; the group returns an iterator over the items as they are made.
    """

    def mark(method: MethodT) -> MethodT:
        method.__dispatch__ = Rule(arguments, results, streams)  # pyright: ignore[reportFunctionMemberAccess]
        return method

    return mark


def rule_of(worker_cls: type, name: str) -> Rule:
    """What a worker's class declares about a method; AttributeError, with the names there are, if nothing."""
    rule = getattr(getattr(worker_cls, name, None), "__dispatch__", None)
    if rule is None:
        offered = sorted(n for n in dir(worker_cls) if hasattr(getattr(worker_cls, n), "__dispatch__"))
        raise AttributeError(
            f"{worker_cls.__name__} has no method {name!r} for the driver; it has {', '.join(offered) or 'none'}. "
            "Methods are offered with @dispatch(...)."
        )
    return rule


Call = tuple[tuple[Any, ...], Mapping[str, Any]]
"""Positional and keyword arguments of one rank's call."""


def calls_for_ranks(
    rule: Rule, what: str, world_size: int, args: Sequence[Any], kwargs: Mapping[str, Any]
) -> list[Call]:
    """Cut the driver's arguments into one call for each rank.

    `what` names the call in the ValueError that a wrong number of parts raises.
    """
    if rule.arguments is Arguments.BROADCAST:
        return [(tuple(args), kwargs)] * world_size
    if not args:
        raise ValueError(f"{what}: its first argument is split over the ranks and must be given by position.")
    parts, *others = args
    if not isinstance(parts, Sequence) or len(parts) != world_size:
        given = f"{len(parts)} parts" if isinstance(parts, Sequence) else f"a {type(parts).__name__}"
        raise ValueError(f"{what}: got {given} for {world_size} rank(s); give a list with one part for each rank.")
    return [((part, *others), kwargs) for part in parts]
