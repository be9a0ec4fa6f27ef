"""Python code that a model folder or hub repository brings along (`auto_map`): never run unasked, never in silence."""

from __future__ import annotations

import functools
import logging

logger = logging.getLogger(__name__)


@functools.cache
def say_aloud(path: str) -> None:
    """Warn, once for each path and process, that code of `path` may run: somebody asked for it, maybe in a preset."""
    logger.warning(
        "trust_remote_code=True: Python code that comes with %s, if there is any, runs here with all rights of this"
        " user. Set actor_rollout_ref.model.trust_remote_code=False (fine-tuning: model.trust_remote_code) if it needs"
        " none.",
        path,
    )
