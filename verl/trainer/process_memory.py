"""Memory of the driver and of its workers, so that a leak shows up as a curve and not as a kill after two days."""

from __future__ import annotations

from collections.abc import Sequence

from verl.single_controller import WorkerGroup
from verl.single_controller.processes import resident_bytes, this_process


def process_memory_metrics(groups: Sequence[WorkerGroup]) -> dict[str, float]:
    """`perf/driver_memory_gb`, and of the largest worker on this machine `perf/max_worker_memory_gb`; both in GiB.

    Resident memory, with the pages that are shared with other processes.
    """
    metrics = {"perf/driver_memory_gb": resident_bytes(this_process()) / 2**30}
    if sizes := [size for group in groups for size in group.resident_bytes()]:
        metrics["perf/max_worker_memory_gb"] = max(sizes) / 2**30
    return metrics
