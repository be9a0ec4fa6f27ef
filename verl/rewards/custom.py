"""A user's own scorer, by file and name, with its signature checked before anything is started."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any

from verl.registry import load_from_file
from verl.types import InputError

_KEY = "custom_reward_function"


def load_custom(path: str, name: str = "compute_score", kwargs: Mapping[str, Any] | None = None) -> Callable[..., Any]:
    """Load `name` from the Python file `path`, with the further keyword arguments `kwargs` bound to it.

    It is called as `f(data_source=..., solution_str=..., ground_truth=..., extra_info=...)`, as in verl, and returns
    what `score_to_reward` reads.

    Raises:
        InputError: the file or the name does not exist, the file fails while it is imported, or the function cannot
            be called like that.
    """
    scorer = load_from_file(path, name, _KEY)
    wanted = "compute_score(data_source, solution_str, ground_truth, extra_info=None)"
    where = f"{_KEY}.name={name} in {path}"
    if not callable(scorer):
        raise InputError(f"{where}: is a {type(scorer).__name__}, not a function; wanted is {wanted}.")
    if inspect.iscoroutinefunction(scorer):
        raise InputError(f"{where}: is an async function; wanted is a plain one, {wanted}.")
    bound = dict(kwargs or {})
    given = {"data_source": "", "solution_str": "", "ground_truth": None, "extra_info": None}
    if clash := sorted(given.keys() & bound.keys()):
        raise InputError(f"{_KEY}.reward_kwargs sets {', '.join(clash)}, which every call passes; remove it there.")
    signature = inspect.signature(scorer)
    try:
        signature.bind(**given, **bound)
    except TypeError as error:
        extra = f" with reward_kwargs {sorted(bound)}" if bound else ""
        raise InputError(f"{where}: has the signature {signature}{extra}: {error}; wanted is {wanted}.") from error
    return functools.partial(scorer, **bound) if bound else scorer
