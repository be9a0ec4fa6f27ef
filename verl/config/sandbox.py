"""`sandbox.*`: what a program written by a model may use while it is graded. How it is shut in: `verl.sandbox`."""

from __future__ import annotations

from dataclasses import dataclass

from verl.config.node import Node, Positive


@dataclass(frozen=True)
class SandboxConfig(Node):
    """`sandbox.*`"""

    allow_unisolated: bool = False
    """Where neither bubblewrap nor Linux namespaces can be used, run programs with resource limits only: they can then
    read and write whatever this user can, and reach the network. False refuses to start."""
    num_workers: Positive | None = None
    """Programs that run at the same time in one reward worker; null: the cores are shared out evenly among the reward
    workers."""
    memory_bytes: Positive = 1024**3
    """Memory of an attempt, all its processes together."""
    max_processes: Positive = 32
    """Processes and threads of an attempt."""
    max_output_bytes: Positive = 8 * 1024**2
    """What an attempt may print, and, counted apart, the size of the value its function returns."""
    max_file_bytes: Positive = 64 * 1024**2
    """Size of the scratch folder, which lies in memory, and of each file."""
