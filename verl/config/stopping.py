"""When a run ends before its last step because going on is no use."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from verl.config.node import Node, Positive, Range


@dataclass(frozen=True)
class StopOnCollapseConfig(Node):
    """`trainer.stop_on_collapse.*`: end the run when a metric has fallen from its best and stays there.

    The run then counts as finished, `status.json` says why, and the newest checkpoint that is not later than the best
    is kept whatever `trainer.max_actor_ckpt_to_keep` says.
    """

    metric: str | None = None
    """Any logged metric, `val-core/...` or `self_distillation/student_demo_log_prob`; null: never stop."""
    mode: Literal["max", "min"] = "max"
    """Whether high or low values are good."""
    max_drop: Annotated[float, Range(above=0)] = 0.1
    """How far below its best (above it, with mode=min) the metric may be, in its own unit."""
    patience: Positive = 3
    """So many observations in a row beyond that end the run; steps that do not log the metric do not count."""
