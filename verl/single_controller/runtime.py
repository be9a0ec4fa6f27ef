"""Start and stop Ray, so that a run on one machine stays on that machine and says only what matters.

Without an address (`ray_kwargs.ray_init.address` or the environment variable RAY_ADDRESS) a private cluster is started
for this driver alone: on the loopback interface, never shared with another one that happens to run, and gone with the
driver, even if that is killed. With an address, the cluster that the launcher started on the nodes is joined.
"""

from __future__ import annotations

import logging
import os
import signal
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import ray
from ray._private import ray_constants
from ray._private import worker as ray_worker

STOP_SECONDS = 60.0
"""What Ray gets to end."""

logger = logging.getLogger(__name__)


@contextmanager
def ray_session(ray_init: Mapping[str, Any] | None = None) -> Iterator[None]:
    """Have Ray running inside the block.

    Args:
        ray_init: arguments for `ray.init` in place of ours (`ray_kwargs.ray_init`).
    """
    reach = _get_reach()
    start_ray(ray_init or {})
    try:
        yield
    finally:
        _stop_ray()
        _set_reach(*reach)


def _stop_ray() -> None:
    """Leave Ray; a private cluster ends with it, by force when it does not by itself."""
    force = threading.Timer(STOP_SECONDS, _kill_own_cluster)
    force.daemon = True
    force.start()
    ray.shutdown()
    force.cancel()


def _kill_own_cluster() -> None:
    """`ray.shutdown` waits for its server processes for ever when one of them hangs, and stops waiting when it dies."""
    logger.warning("Ray did not end within %g s: its processes are killed.", STOP_SECONDS)
    node: Any = ray_worker._global_node
    for started in node.all_processes.values() if node else ():  # none if the cluster is somebody else's
        for process in started:
            process.process.kill()


def start_ray(ray_init: Mapping[str, Any]) -> None:
    """Start a private cluster, or join the one that `ray_init` or RAY_ADDRESS names."""
    set_ray_environment()
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR", "include_dashboard": False}
    address = ray_init.get("address") or os.environ.get("RAY_ADDRESS") or "local"
    if address == "local":
        _stay_on_loopback()
    else:
        allow_other_machines()
        del options["include_dashboard"]
    with _own_sigterm():
        ray.init(**{**options, **ray_init, "address": address})


def set_ray_environment() -> None:
    """What Ray's processes read from the environment of who starts them."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_process_group_cleanup_enabled", "1")  # a worker's own processes end with it
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # workers without a GPU keep their environment
    os.environ.setdefault("RAY_worker_niceness", "0")  # workers are the run itself; Ray's 15 lets all else go first


@contextmanager
def _own_sigterm() -> Iterator[None]:
    """Keep what SIGTERM means to the driver: Ray makes it a SystemExit, which names no reason."""
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, before)


def _stay_on_loopback() -> None:
    """Let Ray listen on 127.0.0.1 only: whoever reaches its ports can run code, and addresses come and go with a VPN.

    Ray replaces an explicit 127.0.0.1 by the machine's address; the switch below, its default on macOS and Windows, is
    the only way. The environment variable is for Ray's processes, the constant for this one, which may have read it.
    """
    _set_reach("0", False)


def allow_other_machines() -> None:
    """Undo `_stay_on_loopback`, which may have been inherited from a process with a private cluster."""
    _set_reach("1", True)


def _get_reach() -> tuple[str | None, bool]:
    """Whether Ray may reach other machines: the environment variable, and what this process made of it."""
    return os.environ.get(ray_constants.ENABLE_RAY_CLUSTERS_ENV_VAR), ray_constants.ENABLE_RAY_CLUSTER


def _set_reach(variable: str | None, constant: bool) -> None:
    if variable is None:
        os.environ.pop(ray_constants.ENABLE_RAY_CLUSTERS_ENV_VAR, None)
    else:
        os.environ[ray_constants.ENABLE_RAY_CLUSTERS_ENV_VAR] = variable
    ray_constants.ENABLE_RAY_CLUSTER = constant
