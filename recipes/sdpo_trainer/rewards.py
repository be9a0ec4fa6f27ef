"""Reward functions that may also say why: scores for TRL, feedback for the teacher.

A reward function is wrapped before `GRPOTrainer` sees it. So TRL meets what it knows, a list of numbers or None, and
the trainer finds beside it what the function said about each completion. Feedback belongs to the call that wrote it:
nothing of an earlier batch is ever read.

A function may return, for each completion, a number, None ("does not apply"), or a dictionary with `score` and
`feedback`; or it returns numbers and sets its attribute `last_feedback`. Before each call that attribute is set to an
empty list of ours. So a function that fills the list it finds works like one that sets a new one, and one that does
neither is caught: the list is still empty. Where the attribute cannot be set (a read-only property), the same list with
the same content as before the call counts as not written.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import inspect
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from statistics import fmean
from typing import Any, Literal

from torch import nn

from sdpo_trainer.reward_results import read_results

OnError = Literal["raise", "zero"]
_logger = logging.getLogger(__name__)
_ABSENT = object()


class WrappedReward:
    """A reward function of which TRL sees only the scores; call it as TRL does, by keyword.

    Attributes:
        feedback: of the latest call, one text or None for each completion.
        gives_feedback: whether the latest call could tell feedback at all: a dictionary had the key `feedback`, or
            `last_feedback` was set to a list. Where no function did, a static column of the data set may stand in.
    """

    def __init__(self, function: Callable[..., Any], on_error: OnError = "raise") -> None:
        self.function = function
        self.on_error = on_error
        self.__name__ = reward_name(function)
        self._forget()

    def __call__(self, *, completions: Sequence[Any], **arguments: Any) -> list[float | None]:
        before = self._prepare()
        try:
            results = self.function(completions=completions, **arguments)
        except Exception as error:
            return self._failed(error, len(completions), arguments)
        return self._read(results, before, len(completions), arguments)

    def _forget(self) -> None:
        self.feedback: list[str | None] = []
        self.gives_feedback = False

    def _prepare(self) -> tuple[Any, Any]:
        """Take an earlier `last_feedback` away. Returns the list that stands there now, and a copy of it."""
        self._forget()
        owner, old = self._last_feedback()
        if old is None:
            return None, None
        with contextlib.suppress(AttributeError):  # a read-only property: the copy tells whether it changed
            owner.last_feedback = []
            old = owner.last_feedback
        return old, copy.copy(old)

    def _last_feedback(self) -> tuple[Any, Any]:
        """Whose `last_feedback` it is, and the value: of the callable, or of what it is a part or a method of."""
        for owner in _owners(self.function):
            value = getattr(owner, "last_feedback", _ABSENT)
            if value is not _ABSENT:
                return owner, value
        return None, None

    def _failed(self, error: Exception, count: int, arguments: Mapping[str, Any]) -> list[float | None]:
        step = getattr(arguments.get("trainer_state"), "global_step", "unknown")
        told = f"reward function {self.__name__!r} failed at step {step}: {type(error).__name__}: {error}"
        if self.on_error != "zero":
            raise RuntimeError(
                f"{told}. Mend the function, or set on_reward_error='zero' to go on with score 0 and without feedback"
            ) from error
        _logger.warning("%s. All %d scores are 0 (on_reward_error='zero').", told, count, exc_info=error)
        self.feedback = [None] * count
        return [0.0] * count

    def _read(
        self, results: Any, before: tuple[Any, Any], count: int, arguments: Mapping[str, Any]
    ) -> list[float | None]:
        """Scores of one call; keeps its feedback and logs its other numbers. ValueError names the function."""
        read = read_results(self.__name__, results, count)
        told = read.feedback or self._read_attribute(before, count)
        self.gives_feedback = told is not None
        self.feedback = [None] * count if told is None else told
        log_metric = arguments.get("log_metric")
        if log_metric is not None:
            for key, values in read.numbers.items():
                log_metric(f"rewards/{self.__name__}/{key}/mean", fmean(values))
        return read.scores

    def _read_attribute(self, before: tuple[Any, Any], count: int) -> list[str | None] | None:
        _, value = self._last_feedback()
        if value is None:
            return None
        rule = "set it in each call, to one text or None for each completion, or to None when there is nothing to say"
        whose = f"last_feedback of reward function {self.__name__!r}"
        if not isinstance(value, list | tuple):
            raise ValueError(f"{whose} is {value!r}, which is no list; {rule}")
        old, content = before
        if value is old and value == content and count:
            raise ValueError(f"{whose} was not set in this call, which scored {count} completions; {rule}")
        if len(value) != count:
            raise ValueError(f"{whose} has {len(value)} entries for {count} completions; {rule}")
        for index, text in enumerate(value):
            if text is not None and not isinstance(text, str):
                raise ValueError(f"{whose}, completion {index}: {text!r} is neither a text nor None; {rule}")
        return list(value)


class AsyncWrappedReward(WrappedReward):
    """The same for a function that must be awaited: TRL tells it by the `async` of `__call__`."""

    async def __call__(self, *, completions: Sequence[Any], **arguments: Any) -> list[float | None]:
        before = self._prepare()
        try:
            results = await self.function(completions=completions, **arguments)
        except Exception as error:
            return self._failed(error, len(completions), arguments)
        return self._read(results, before, len(completions), arguments)


def wrap_reward(function: Any, on_error: OnError = "raise") -> Any:
    """A reward as TRL takes it: callables wrapped, reward models and their names as they are.

    Args:
        function: a callable (sync or async), an `nn.Module` or a model's name.
        on_error: what is done when the function raises: `raise` a RuntimeError that names it and the step, or score
            all completions of the call `zero`. Results that cannot be read are an error in any case.

    Raises TypeError for anything else.
    """
    if isinstance(function, str | nn.Module | WrappedReward):
        return function
    if not callable(function):
        raise TypeError(f"reward function {function!r} is neither a callable nor a reward model nor the name of one")
    return (AsyncWrappedReward if _is_async(function) else WrappedReward)(function, on_error)


def wrap_rewards(reward_funcs: Any, on_error: OnError = "raise") -> list[Any]:
    """`wrap_reward` for the whole argument of the trainer: one reward, a list of them, or None. A new list."""
    if reward_funcs is None:
        return []
    several = reward_funcs if isinstance(reward_funcs, list | tuple) else [reward_funcs]
    return [wrap_reward(function, on_error) for function in several]


def join_feedback(per_function: Sequence[Sequence[str | None]]) -> list[str | None]:
    """One feedback for each completion from those of several functions (each with one entry per completion).

    The texts that are not blank, in the functions' order, with an empty line between them; what was said already is
    left out. None where nobody said anything. Raises ValueError for functions with different numbers of entries.
    """
    joined: list[str | None] = []
    for texts in zip(*per_function, strict=True):
        different = dict.fromkeys(text for text in texts if text and text.strip())
        joined.append("\n\n".join(different) or None)
    return joined


def reward_name(function: Callable[..., Any]) -> str:
    """The name under which a reward is logged: its own, or that of its class; a partial has its function's."""
    while isinstance(function, functools.partial):
        function = function.func
    return getattr(function, "__name__", type(function).__name__)


def _is_async(function: Any) -> bool:
    while isinstance(function, functools.partial):
        function = function.func
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(type(function).__call__)


def _owners(function: Any) -> Iterator[Any]:
    """The callable, the function a partial is made of, and the object that a method belongs to."""
    while isinstance(function, functools.partial):
        yield function
        function = function.func
    yield getattr(function, "__self__", function)
    if inspect.ismethod(function):
        yield function.__func__
