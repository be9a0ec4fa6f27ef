"""A killed driver leaves nothing behind, and one whose Ray hangs can leave."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from leftovers import processes_with, wait_until_none_with

HERE = Path(__file__).parent
DEADLINE = 20.0  # seconds


def test_sigkill_of_the_driver_takes_ray_and_all_workers_with_it():
    mark = f"VERL_TEST_KILLED_DRIVER={os.getpid()}-{time.time_ns()}"
    environment = os.environ | dict([mark.split("=")])
    driver = subprocess.Popen(
        [sys.executable, str(HERE / "kill_driver.py")], env=environment, stdout=subprocess.PIPE, text=True
    )
    assert driver.stdout is not None
    pids = [int(pid) for pid in driver.stdout.readline().split()]
    assert len(pids) == 2
    time.sleep(0.5)  # both workers now wait in a call that never ends
    assert len(processes_with(mark)) >= 4  # driver, raylet and two workers at least
    driver.send_signal(signal.SIGKILL)
    driver.wait()
    wait_until_none_with(mark, DEADLINE)


def test_a_driver_leaves_a_ray_that_hangs():
    command = [sys.executable, str(HERE / "stop_raylet.py")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.stdout.endswith("left\n"), done.stderr
    assert "Ray did not end within 3 s: its processes are killed." in done.stderr
