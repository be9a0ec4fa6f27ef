"""What a run does about workers that hang: the sections of the trainer that say how long to wait."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from verl.config.node import Node, Range

Seconds = Annotated[float, Range(above=0)]


@dataclass(frozen=True)
class TimeoutConfig(Node):
    """`trainer.timeout.*`: seconds that one call of the training ranks may take; null: any time.

    A call that takes longer ends the step with the stacks of the ranks that hang; see `trainer.max_restarts`. They must
    be longer than the slowest honest call. Scoring has its own, for each response: `reward_model.timeout`.
    """

    setup: Seconds | None = 3600.0
    """Start of all processes, or of a new reward worker; loading of models, loading of a checkpoint."""
    log_prob: Seconds | None = 3600.0
    """Log-probs of a batch under the policy or the reference; of the validation's demonstrations under the teacher."""
    update: Seconds | None = 3600.0
    """All optimizer steps of a batch."""
    sync: Seconds | None = 3600.0
    """Sending the weights to all engines."""
    save: Seconds | None = 3600.0
    """Writing a checkpoint or an export."""
