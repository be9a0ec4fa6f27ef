"""Checkpoint folders that are whole or absent. The driver's part: no torch; the workers write the shards inside."""

from verl.checkpoint.folders import CheckpointError, begin_save, commit_save, find_latest, prune, step_of, verify

__all__ = ["CheckpointError", "begin_save", "commit_save", "find_latest", "prune", "step_of", "verify"]
