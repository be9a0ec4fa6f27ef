"""Runs that something happens to, and the proof that they end as if nothing had.

A scenario is one `Fault` on one small run. The run must end as the uninterrupted run of the same settings does, by
itself or after it was started again: same metrics but times, same final weights to the bit, every step once. No
process of it may be left. What happened is written to a table (`fault_table.py`).
"""

from __future__ import annotations

import json
import math
import os
import subprocess
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from e2e.whole_runs import ROOT, Quickstart, read_metrics
from faults import EVENTS, Fault
from leftovers import wait_until_none_with
from safetensors.numpy import load_file

TIMES = ("timing_s/", "timing_per_token_ms/", "perf/")
"""Metrics that no two runs share."""
RESTARTS = ("training/restarts", "rollout/engine_restarts", "rollout/reissued_requests")
"""Metrics that count what happened to the run: they are not compared."""
MARK = "VERL_CHAOS_RUN"
SECONDS_TO_VANISH = 120.0
SECONDS_OF_A_RUN = 500.0

SETTINGS = (
    "trainer.save_freq=1",
    "trainer.test_freq=2",
    "trainer.val_before_train=false",
    "trainer.deterministic=true",
    "trainer.max_actor_ckpt_to_keep=2",
    "actor_rollout_ref.actor.self_distillation.teacher_update_rate=0.05",
    "actor_rollout_ref.actor.checkpoint.save_contents=[model,optimizer,extra,hf_model]",
)

VLLM = (
    "actor_rollout_ref.rollout.name=vllm",
    "actor_rollout_ref.rollout.max_num_seqs=4",  # most are still unwritten when the first response is there
    "trainer.n_gpus_per_node=1",
    "trainer.total_training_steps=3",
)
"""Of the runs with vLLM, which thereby share a reference."""


@dataclass(frozen=True)
class Ended:
    """A process of a run that is over."""

    code: int
    output: str
    """stdout and stderr."""


@dataclass
class ChaosRun:
    """One run folder, and the processes that work on it, one after the other.

    Args:
        data: folder of the task's parquet files.
        folder: of the run.
        settings: overrides of the configuration.
    """

    data: Path
    folder: Path
    settings: tuple[str, ...]
    ended: list[Ended] = field(default_factory=list)

    def start(self, fault: Fault | None = None) -> Ended:
        """Run until it ends, in whatever way, and until all its processes are gone."""
        door = ["-m", "verl.trainer.main_ppo"]
        command = Quickstart(self.data).command(self.folder, *SETTINGS, *self.settings)
        entry = [str(ROOT / "tests/chaos/faulty_run.py"), fault.to_json() if fault else ""]
        assert command[1:3] == door
        mark = f"{os.getpid()}-{time.time_ns()}"
        done = subprocess.run(
            [command[0], *entry, *command[3:]],
            cwd=ROOT,
            env=os.environ | {"PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}", MARK: mark},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=SECONDS_OF_A_RUN,
        )
        wait_until_none_with(f"{MARK}={mark}", SECONDS_TO_VANISH)
        self.ended.append(Ended(done.returncode, done.stdout))
        return self.ended[-1]

    def finish(self) -> None:
        """Start it, and expect it to come to its end."""
        ended = self.start()
        assert ended.code == 0, ended.output[-5000:]

    def events(self) -> list[dict]:
        path = self.folder / EVENTS
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def metrics(self) -> list[dict]:
        return read_metrics(self.folder)

    def comparable_metrics(self) -> list[dict]:
        """Those that any two runs of the same settings share."""
        return [
            {name: value for name, value in line.items() if not name.startswith((*TIMES, *RESTARTS))}
            for line in self.metrics()
        ]

    def weights(self) -> dict:
        """Of the last checkpoint, which must be the last step's."""
        step = self.metrics()[-1]["step"]
        return load_file(self.folder / f"global_step_{step}/actor/huggingface/model.safetensors")

    def seconds_to_recover(self) -> float:
        """From the last fault until the step in which it came, or the next one to be finished, was done."""
        events = self.events()
        index = max(number for number, event in enumerate(events) if event["event"] == "fault")
        fault = events[index]
        later = (event for event in events[index + 1 :] if event["event"] == "done" and event["step"] >= fault["step"])
        done = next(later, events[-1])
        return done["time"] - fault["time"]


def assert_same(run: ChaosRun, reference: ChaosRun, rel: Mapping[str, float] | None = None) -> None:
    """The run ended as the reference did.

    Args:
        rel: how far a metric may differ; others, and the weights, do not at all.
    """
    lines, expected = run.comparable_metrics(), reference.comparable_metrics()
    assert [line["step"] for line in lines] == [line["step"] for line in expected], "a step is missing, or there twice"
    for line, other in zip(lines, expected, strict=True):
        assert line.keys() == other.keys()
        different = {
            name: (line[name], other[name])
            for name in line
            if line[name] != other[name]
            and not (rel and name in rel and math.isclose(line[name], other[name], rel_tol=rel[name]))
        }
        assert not different, f"step {line['step']}: {different}"
    weights, others = run.weights(), reference.weights()
    assert weights.keys() == others.keys()
    assert all((weights[name] == others[name]).all() for name in others)
