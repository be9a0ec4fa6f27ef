"""`main_ppo` to which one fault happens:  python tests/chaos/faulty_run.py '<a Fault as JSON, or nothing>' <arguments>

The product has no hooks for this. Calls of the driver's own objects are wrapped from outside, the workers' processes
are what they always are, and the signal is a real one. It comes from the driver itself, because only there the moment
is exact.
"""

from __future__ import annotations

import functools
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from faults import EVENTS, Fault
from leftovers import worker_pids

import verl.trainer.listeners
from verl.single_controller.ray_group import RayWorkerGroup
from verl.tracking import Tracking
from verl.trainer.checkpointing import RunCheckpoints
from verl.trainer.main_ppo import DOOR
from verl.trainer.rl_trainer import RLTrainer
from verl.trainer.roles import RolloutPool


class Watch:
    """Knows where the run is, and strikes when the moment has come.

    Args:
        fault: None only notes when steps are done.
        folder: the run folder.
    """

    def __init__(self, fault: Fault | None, folder: Path) -> None:
        self.fault = fault
        self.folder = folder
        self.step = 0
        self.is_validating = False

    def met(self, moment: str) -> None:
        """The driver is at this moment."""
        fault = self.fault
        if fault is None or moment != fault.moment or self.step < fault.step:
            return
        self.fault = None
        while fault.written and not any(self.folder.glob(fault.written)):
            time.sleep(0.001)
        if fault.delay:
            threading.Timer(fault.delay, self.strike, [fault]).start()
        else:
            self.strike(fault)

    def strike(self, fault: Fault) -> None:
        pid = self.pid_of(fault.victim)
        self.note("fault", pid=pid)
        workers = worker_pids(self.folder) if fault.takes_workers else []
        os.kill(pid, signal.Signals[f"SIG{fault.signal}"])
        while workers and all(Path(f"/proc/{worker}").exists() for worker in workers):
            time.sleep(0.01)

    def pid_of(self, victim: str) -> int:
        if victim == "driver":
            return os.getpid()
        return int(victim) if victim.isdecimal() else worker_pids(self.folder, victim)[0]

    def note(self, event: str, **more: Any) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / EVENTS).open("a") as file:
            file.write(json.dumps({"event": event, "step": self.step, "time": time.time(), **more}) + "\n")


def wrap(owner: Any, name: str, around: Callable[..., Any]) -> None:
    """Call `around(original, *args)` in place of `owner.name(*args)`."""
    original = getattr(owner, name)
    setattr(owner, name, functools.wraps(original)(lambda *args, **kwargs: around(original, *args, **kwargs)))


def watch_over(watch: Watch) -> None:
    """Tell the watch of every moment."""

    def launch(original: Any, group: Any, method: str, *args: Any, **kwargs: Any) -> Any:
        pending = original(group, method, *args, **kwargs)
        watch.met(f"{group.role}.{method}")
        return pending

    def generate(original: Any, *args: Any, **kwargs: Any) -> Any:
        for number, rollouts in enumerate(original(*args, **kwargs)):
            if number == 0:
                watch.met("validation" if watch.is_validating else "generate")
            yield rollouts

    def validate(original: Any, *args: Any, **kwargs: Any) -> Any:
        watch.is_validating = True
        try:
            return original(*args, **kwargs)
        finally:
            watch.is_validating = False

    def train_step(original: Any, trainer: Any, number: int, *args: Any) -> Any:
        watch.step = number
        return original(trainer, number, *args)

    def log(original: Any, *args: Any) -> None:
        original(*args)
        watch.note("done")
        watch.met("logged")

    def save(original: Any, *args: Any) -> None:
        original(*args)
        watch.met("saved")

    wrap(RayWorkerGroup, "_launch", launch)
    wrap(RolloutPool, "generate", generate)
    wrap(RLTrainer, "train_step", train_step)
    wrap(Tracking, "log", log)
    wrap(verl.trainer.listeners, "validate", validate)
    wrap(RunCheckpoints, "save", save)


if __name__ == "__main__":
    given, *arguments = sys.argv[1:]
    key = "trainer.default_local_dir="
    run_folder = next(argument.removeprefix(key) for argument in arguments if argument.startswith(key))
    watch_over(Watch(Fault.from_json(given), Path(run_folder)))
    sys.exit(DOOR.open(arguments))
