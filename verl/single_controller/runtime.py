"""Start and stop Ray, so that a run on one machine stays on that machine and says only what matters.

Without an address (`ray_kwargs.ray_init.address` or the environment variable RAY_ADDRESS) a private cluster is started
for this driver alone: on the loopback interface, never shared with another one that happens to run, and gone with the
driver, even if that is killed. With an address, the cluster that the launcher started on the nodes is joined.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import ray
from ray._private import ray_constants


@contextmanager
def ray_session(ray_init: Mapping[str, Any] | None = None) -> Iterator[None]:
    """Have Ray running inside the block.

    Args:
        ray_init: arguments for `ray.init` in place of ours (`ray_kwargs.ray_init`).
    """
    start_ray(ray_init or {})
    try:
        yield
    finally:
        ray.shutdown()


def start_ray(ray_init: Mapping[str, Any]) -> None:
    """Start a private cluster, or join the one that `ray_init` or RAY_ADDRESS names."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_process_group_cleanup_enabled", "1")  # a worker's own processes end with it
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # workers without a GPU keep their environment
    os.environ.setdefault("RAY_worker_niceness", "0")  # workers are the run itself; Ray's 15 lets all else go first
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR", "include_dashboard": False}
    address = ray_init.get("address") or os.environ.get("RAY_ADDRESS") or "local"
    if address == "local":
        _stay_on_loopback()
    else:
        del options["include_dashboard"]
    ray.init(**{**options, **ray_init, "address": address})


def _stay_on_loopback() -> None:
    """Let Ray listen on 127.0.0.1 only: whoever reaches its ports can run code, and addresses come and go with a VPN.

    Ray replaces an explicit 127.0.0.1 by the machine's address; the switch below, its default on macOS and Windows, is
    the only way. The environment variable is for Ray's processes, the constant for this one, which may have read it.
    """
    os.environ[ray_constants.ENABLE_RAY_CLUSTERS_ENV_VAR] = "0"
    ray_constants.ENABLE_RAY_CLUSTER = False
