"""The embedded task's reward, whose first step does not end before the time limit's signal has come.

So the signal finds the run in the middle of a step, however long Slurm takes to send it.
"""

import os
import time
from pathlib import Path
from typing import Any

from verl.rewards import home_api


def compute_score(data_source: str, solution_str: str, ground_truth: Any, extra_info: dict | None = None) -> dict:
    is_first_life = "SLURM_RESTART_COUNT" not in os.environ
    while is_first_life and not Path(os.environ["VERL_STOP_FILE"]).exists():
        time.sleep(0.1)
    return home_api.compute_score(solution_str, ground_truth, extra_info)
