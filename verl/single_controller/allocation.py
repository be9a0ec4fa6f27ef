"""Ray on the nodes that Slurm gave a job, as `experiments/lib/job.sh` starts it.

    python -m verl.single_controller.allocation address              an address for the head, on this node
    python -m verl.single_controller.allocation join                 be a node of it, until a signal; one task per node
    python -m verl.single_controller.allocation wait NODE [NODE ...] until all have joined

The address goes from the first to the others as RAY_ADDRESS. A node is called what Slurm calls it (SLURMD_NODENAME), so
that one that is missing can be named; task 0 (SLURM_PROCID) is the head.
"""

from __future__ import annotations

import argparse
import os
import socket
import sys
import time
from collections.abc import Sequence

import ray

from verl.single_controller.runtime import allow_other_machines, ray_session, set_ray_environment

HEAD_TIMEOUT = 300.0
"""Seconds that a node waits for the head."""
PAUSE = 0.5  # seconds between two looks


def free_address() -> str:
    """`address:port` of this node, as other nodes see it; the port is free now.

    RAY_HEAD_IP is taken instead of what the host's name stands for, where that is an interface that others do not see.
    """
    address = os.environ.get("RAY_HEAD_IP") or socket.gethostbyname(socket.gethostname())
    with socket.socket() as probe:
        probe.bind((address, 0))
        return f"{address}:{probe.getsockname()[1]}"


def join(address: str, name: str, is_head: bool) -> None:
    """Become `ray start` for this node. SIGTERM ends it and all of Ray's processes of this node.

    Raises:
        TimeoutError: there is no head at `address`.
    """
    host, port = _split(address)
    if is_head:
        where = ["--head", f"--node-ip-address={host}", f"--port={port}", "--include-dashboard=false"]
    else:
        _wait_for_port(host, port, HEAD_TIMEOUT)
        where = [f"--address={address}"]
    cpus = os.environ.get("SLURM_CPUS_ON_NODE")  # of the job, where Ray would count the machine's
    set_ray_environment()
    allow_other_machines()
    command = [sys.executable, "-m", "ray.scripts.scripts", "start", *where, f"--node-name={name}", "--block"]
    os.execv(sys.executable, command + ([f"--num-cpus={cpus}"] if cpus else []))


def missing_nodes(names: Sequence[str], seconds: float) -> list[str]:
    """Those of `names` that have not joined the driver's cluster within so many seconds."""
    deadline = time.monotonic() + seconds
    while True:
        there = {node["NodeName"] for node in ray.nodes() if node["Alive"]}
        missing = [name for name in names if name not in there]
        if not missing or time.monotonic() > deadline:
            return missing
        time.sleep(PAUSE)


def wait(names: Sequence[str], seconds: float) -> None:
    """Wait until all nodes have joined.

    Raises:
        TimeoutError: the head does not answer, or some node has not joined; it is named.
    """
    address = os.environ["RAY_ADDRESS"]
    _wait_for_port(*_split(address), seconds)
    with ray_session():
        missing = missing_nodes(names, seconds)
    if missing:
        raise TimeoutError(
            f"{len(missing)} of {len(names)} nodes did not join Ray at {address} within {seconds:g} s:"
            f" {', '.join(missing)}. Can they reach that address (RAY_HEAD_IP sets another one), and is the environment"
            " on them? What Ray said there is in the job's log."
        )


def _split(address: str) -> tuple[str, int]:
    host, _, port = address.rpartition(":")
    return host, int(port)


def _wait_for_port(host: str, port: int, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while True:
        try:
            socket.create_connection((host, port), timeout=5).close()
            return
        except OSError as error:
            if time.monotonic() > deadline:
                raise TimeoutError(
                    f"Ray's head does not answer at {host}:{port} after {seconds:g} s: {error}"
                ) from None
        time.sleep(PAUSE)


def main(argv: Sequence[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("address")
    commands.add_parser("join")
    waiting = commands.add_parser("wait")
    waiting.add_argument("--seconds", type=float, default=300.0)
    waiting.add_argument("nodes", nargs="+")
    arguments = parser.parse_args(argv)
    try:
        if arguments.command == "address":
            print(free_address())
        elif arguments.command == "join":
            name = os.environ.get("SLURMD_NODENAME", socket.gethostname())
            join(os.environ["RAY_ADDRESS"], name, is_head=os.environ.get("SLURM_PROCID", "0") == "0")
        else:
            wait(arguments.nodes, arguments.seconds)
    except TimeoutError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
