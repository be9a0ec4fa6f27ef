"""Where a run's numbers go: console, metrics.jsonl, TensorBoard, Weights & Biases; and the run folder itself.

`Tracking` fans out to the backends named in `trainer.logger`; a backend is one file and one row in `verl.registry`.
"""

from verl.tracking.base import RunInfo, Tracker
from verl.tracking.dump import dump_samples
from verl.tracking.fan_out import Tracking
from verl.tracking.run_folder import read_status, record_end, record_start, update_status

__all__ = [
    "RunInfo",
    "Tracker",
    "Tracking",
    "dump_samples",
    "read_status",
    "record_end",
    "record_start",
    "update_status",
]
