"""Checkpoint folders that are whole or absent, and (in `dcp`, the only module that needs torch) reading their shards.

python -m verl.checkpoint list RUN
python -m verl.checkpoint verify CHECKPOINT
python -m verl.checkpoint export CHECKPOINT TARGET
"""

from verl.checkpoint.errors import CheckpointError
from verl.checkpoint.folders import (
    Commit,
    begin_save,
    checkpoints,
    commit_save,
    find_latest,
    newest_committed,
    prune,
    step_of,
)
from verl.checkpoint.manifest import verify

__all__ = [
    "CheckpointError",
    "Commit",
    "begin_save",
    "checkpoints",
    "commit_save",
    "find_latest",
    "newest_committed",
    "prune",
    "step_of",
    "verify",
]
