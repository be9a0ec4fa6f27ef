"""Which configuration key limits which call of the workers (`trainer.timeout`)."""

from __future__ import annotations

from verl.config.survival import TimeoutConfig
from verl.single_controller import Deadline

KEYS = {
    "ready": "setup",
    "replace": "setup",
    "setup": "setup",
    "load_checkpoint": "setup",
    "compute_log_probs": "log_prob",
    "compute_entropies": "log_prob",
    "teacher_log_probs": "log_prob",
    "teacher_match": "log_prob",
    "update_policy": "update",
    "update_results": "update",
    "publish_weights": "sync",
    "probe_log_probs": "sync",
    "checkpoint_bytes": "save",
    "save_checkpoint": "save",
    "checkpoint_is_written": "save",
    "export_huggingface": "save",
}
"""Methods of `ActorWorker`; `ready` is the construction, of all roles, and `replace` that of a single new worker.

Engines and reward workers have limits of their own for what they are asked: see `rollout_pool`, `engine_sync` and
`reward`."""


def deadlines(timeout: TimeoutConfig) -> dict[str, Deadline]:
    """By method; those without a limit are left out."""
    limits = {method: getattr(timeout, key) for method, key in KEYS.items()}
    return {
        method: Deadline(seconds, f"trainer.timeout.{KEYS[method]}")
        for method, seconds in limits.items()
        if seconds is not None
    }
