"""Questions about processes, asked on the machine that each of them lives on.

On the driver's own machine they are asked directly; elsewhere by a small Ray task bound to that machine, which works
while the worker hangs, because it is another process. A machine that is lost gives no answer, and that is told.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import ray
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from verl.single_controller.processes import Report, describe
from verl.single_controller.ray_host import Home

ANSWER_TIMEOUT = 20.0  # seconds for a task on another machine, whose process may have to be started


def is_here(home: Home) -> bool:
    """Whether the process is on the driver's machine."""
    return home.node == ray.get_runtime_context().get_node_id()


def describe_all(homes: Sequence[Home]) -> list[Report]:
    """`processes.describe` for each."""
    asked = [None if is_here(home) else _ask(home) for home in homes]
    both = zip(homes, asked, strict=True)
    return [describe(home.process, home.log) if ref is None else _answer(ref) for home, ref in both]


def _ask(home: Home) -> Any:
    there = NodeAffinitySchedulingStrategy(home.node, soft=False)
    return _describe.options(scheduling_strategy=there).remote(home)


def _answer(ref: Any) -> Report:
    try:
        return ray.get(ref, timeout=ANSWER_TIMEOUT)
    except RayError as error:
        return Report(f"not known, its machine does not answer ({type(error).__name__})", can_answer=False)


@ray.remote(num_cpus=0, max_retries=0)
def _describe(home: Home) -> Report:
    return describe(home.process, home.log)
