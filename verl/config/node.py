"""Typed configuration nodes: build a dataclass tree from plain mappings and say everything that is wrong at once.

A node is a dataclass whose fields carry their type, their range (`Annotated[float, Range(0, 1)]`), their choices
(`Literal[...]`) and a docstring. Nothing here knows Hydra: YAML and the command line are turned into plain dictionaries
by the doors (`verl.trainer.main_*`), and this module answers before torch is imported.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
import os
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypeVar

NodeT = TypeVar("NodeT")


class ConfigError(ValueError):
    """One or more problems of a configuration, each a sentence that names the key and the value."""

    def __init__(self, problems: list[str]) -> None:
        self.problems = problems
        super().__init__("\n".join(problems))


@dataclass(frozen=True)
class Range:
    """Bounds of a number; `above` and `below` exclude the bound itself."""

    low: float | None = None
    high: float | None = None
    above: float | None = None
    below: float | None = None

    def problem(self, value: float) -> str | None:
        if (
            (self.low is not None and value < self.low)
            or (self.high is not None and value > self.high)
            or (self.above is not None and value <= self.above)
            or (self.below is not None and value >= self.below)
        ):
            return f"must be {self}"
        return None

    def __str__(self) -> str:
        if self.low is not None and self.high is not None:
            return f"between {self.low:.12g} and {self.high:.12g}"
        words = {"low": "at least", "high": "at most", "above": "greater than", "below": "less than"}
        bounds = [(word, getattr(self, name)) for name, word in words.items()]
        return " and ".join(f"{word} {bound:g}" for word, bound in bounds if bound is not None)


Positive = Annotated[int, Range(low=1)]
NonNegative = Annotated[float, Range(low=0)]
Fraction = Annotated[float, Range(low=0, high=1)]


class Node:
    """Base of every configuration dataclass: checks its own fields when it is made (ConfigError, a ValueError)."""

    def __post_init__(self) -> None:
        problems: list[str] = []
        for name, hint in hints(type(self)).items():
            value, problem = convert(hint, getattr(self, name))
            if problem:
                problems.append(f"{name}={show(getattr(self, name))}: {problem}")
            else:
                object.__setattr__(self, name, value)
        if not problems:
            problems = self.problems()
        if problems:
            raise ConfigError(problems)

    def problems(self) -> list[str]:
        """Rules between the fields of this node: sentences that begin with `key=value: `."""
        return []


def hints(cls: type) -> dict[str, Any]:
    """Field names and resolved type hints (with their ranges) of a node class, in order of definition."""
    resolved = typing.get_type_hints(cls, include_extras=True)
    return {field.name: resolved[field.name] for field in dataclasses.fields(cls)}  # pyright: ignore[reportArgumentType]


def show(value: Any) -> str:
    """A value as it is typed on the command line."""
    return "null" if value is None else str(value)


def convert(hint: Any, value: Any) -> tuple[Any, str | None]:
    """Convert a YAML value to a field's type. Returns the value, or a problem ("must be ...")."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin is Annotated:
        converted, problem = convert(args[0], value)
        if problem is None and isinstance(converted, int | float):
            problem = next((p for r in args[1:] if (p := r.problem(converted))), None)
        return converted, problem
    if origin in (typing.Union, types.UnionType):
        if value is None and type(None) in args:
            return None, None
        attempts = [convert(arg, value) for arg in args if arg is not type(None)]
        good = next((attempt for attempt in attempts if attempt[1] is None), None)
        suffix = " or null" if type(None) in args else ""
        return good or (value, f"{attempts[0][1]}{suffix}")
    if origin is Literal:
        near = difflib.get_close_matches(str(value), [str(arg) for arg in args], 1)
        hint_text = f" (did you mean {near[0]!r}?)" if near else ""
        return value, None if value in args else f"must be one of {', '.join(map(show, args))}{hint_text}"
    if origin in (list, tuple):
        if isinstance(value, Mapping):
            return value, "must be a list"
        if isinstance(value, str) or not hasattr(value, "__iter__"):
            value = [value]  # a single file stands for a list of one, as in verl
        pairs = [convert(args[0], item) for item in value]
        problem = next((p for _, p in pairs if p), None)
        items = [item for item, _ in pairs]
        return (tuple(items) if origin is tuple else items), problem
    if origin is dict:
        return (dict(value), None) if isinstance(value, Mapping) else (value, "must be a mapping")
    if hint is Any or dataclasses.is_dataclass(hint):
        return value, None
    return _convert_scalar(hint, value)


def _convert_scalar(kind: type, value: Any) -> tuple[Any, str | None]:
    if kind is bool:
        return (value, None) if isinstance(value, bool) else (value, "must be true or false")
    if kind is str:
        if isinstance(value, str):
            return value, None
        is_plain = isinstance(value, int | float | os.PathLike) and not isinstance(value, bool)
        return (str(value), None) if is_plain else (value, "must be a text")
    if isinstance(value, bool) or value is None or not isinstance(value, int | float | str):
        return value, "must be a number"
    if kind is int and isinstance(value, int):
        return value, None  # not by way of a float, which would round long ones
    try:
        number = float(value)
    except ValueError:
        return value, "must be a number"
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        return value, "must be a finite number"
    if kind is int:
        return (int(number), None) if number == int(number) else (value, "must be a whole number")
    return number, None


def known_keys(cls: type, prefix: str = "") -> dict[str, Any]:
    """Every key of a node class in dotted form, with its hint; inner nodes appear as keys too."""
    keys: dict[str, Any] = {}
    for name, hint in hints(cls).items():
        keys[prefix + name] = hint
        if dataclasses.is_dataclass(hint):
            keys |= known_keys(typing.cast(type, hint), f"{prefix}{name}.")
    return keys


def build(cls: type[NodeT], values: Mapping[str, Any], prefix: str = "") -> NodeT:
    """Make a node from plain nested mappings.

    Raises ConfigError with every unknown key (and the nearest known one), every wrong value and every broken rule
    inside a node. `_target_` entries, which Hydra users put into typed nodes, are passed over.
    """
    node, problems = attempt(cls, values, prefix)
    if problems:
        raise ConfigError(problems)
    return node


def attempt(cls: type[NodeT], values: Mapping[str, Any], prefix: str = "") -> tuple[NodeT, list[str]]:
    """Like `build`, but always makes a node: what is wrong is left at its default and told in the second result, so
    that rules between nodes can be checked in the same breath."""
    node, problems = _build(cls, values, prefix, known_keys(cls, prefix))
    return typing.cast(NodeT, node), problems


def _build(cls: type, values: Mapping[str, Any], prefix: str, keys: dict[str, Any]) -> tuple[Any, list[str]]:
    problems: list[str] = []
    fields = hints(cls)
    arguments: dict[str, Any] = {}
    for name, value in values.items():
        if name == "_target_":
            continue
        if name not in fields:
            problems += [unknown_key(leaf, keys) for leaf in leaves(value, f"{prefix}{name}")]
        elif dataclasses.is_dataclass(fields[name]):
            if value is None:
                continue  # a null node keeps its defaults
            if not isinstance(value, Mapping):
                problems.append(f"{prefix}{name}={show(value)}: must be a group of keys, not a single value")
                continue
            arguments[name], inner = _build(typing.cast(type, fields[name]), value, f"{prefix}{name}.", keys)
            problems += inner
        else:
            arguments[name] = value
    try:
        return cls(**arguments), problems
    except ConfigError as error:
        node, wrong = _unchecked(cls, arguments)
        rules = [p for p in node.problems() if p not in error.problems and p.partition("=")[0] not in wrong]
        return node, problems + [f"{prefix}{problem}" for problem in error.problems + rules]


def _unchecked(cls: type, arguments: Mapping[str, Any]) -> tuple[Any, set[str]]:
    """A node in which only wrong values are left at their defaults, and the names of these."""
    node, wrong = cls(), set()
    for name, hint in hints(cls).items():
        value, problem = convert(hint, arguments.get(name, getattr(node, name)))
        if problem:
            wrong.add(name)
        else:
            object.__setattr__(node, name, value)
    return node, wrong


def leaves(value: Any, key: str) -> list[str]:
    """Dotted keys of the values below `key`."""
    if isinstance(value, Mapping) and value:
        return [leaf for name, inner in value.items() for leaf in leaves(inner, f"{key}.{name}")]
    return [key]


def unknown_key(key: str, known: Mapping[str, Any]) -> str:
    """The answer to a key that nobody knows: the nearest ones that exist."""
    leaf = key.rsplit(".", 1)[-1]
    near = difflib.get_close_matches(key, known, 1, 0.8)
    near += [name for name in known if name.rsplit(".", 1)[-1] == leaf and name not in near][:2]
    hint = f" Did you mean {' or '.join(near)}?" if near else " Print the known keys with --cfg job."
    return f"{key}: unknown key.{hint}"
