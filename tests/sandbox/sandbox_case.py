"""Limits and configuration of the tests, and programs side by side."""

from concurrent.futures import ThreadPoolExecutor

from verl.config.sandbox import SandboxConfig
from verl.sandbox import Limits

CONFIG = SandboxConfig(num_workers=2)
SMALL = {"memory_bytes": 192 << 20, "num_processes": 16, "output_bytes": 1 << 20, "file_bytes": 8 << 20}
"""Limits at which a bomb that is not contained does the machine no harm."""


def limits(wall=10.0, cpu=None):
    return Limits(wall_seconds=wall, cpu_seconds=cpu, **SMALL)


def run_together(sandbox, jobs, num_threads=None):
    """Outcomes of programs that run at the same time, at most so many (default: as many as there are workers)."""
    with ThreadPoolExecutor(num_threads or sandbox.num_workers) as threads:
        return list(threads.map(sandbox.run, jobs))
