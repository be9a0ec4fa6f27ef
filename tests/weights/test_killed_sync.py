"""A sync whose engine or trainer is killed in the middle: the other side hears of it, and no shared memory is left."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

HERE = Path(__file__).parent
SHARED_MEMORY = Path("/dev/shm")
DEADLINE = 30.0  # seconds


@pytest.mark.skipif(not SHARED_MEMORY.is_dir(), reason="shared memory is not a folder here")
@pytest.mark.parametrize(("victim", "said"), [("engine", ["WorkerDied"]), ("trainer", [])])
def test_no_shared_memory_outlives_a_killed_sync(victim, said):
    before = set(SHARED_MEMORY.iterdir())
    run = subprocess.run(
        [sys.executable, str(HERE / "kill_in_sync.py"), victim], stdout=subprocess.PIPE, text=True, timeout=120
    )
    assert [line for line in run.stdout.splitlines() if "raylet" not in line] == said  # Ray reports the death too
    assert run.returncode == (0 if victim == "engine" else -signal.SIGKILL)
    deadline = time.monotonic() + DEADLINE
    while left := set(SHARED_MEMORY.iterdir()) - before:
        assert time.monotonic() < deadline, left
        time.sleep(0.2)
