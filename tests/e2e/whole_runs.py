"""Start runs of the quickstart, end them, and read what they wrote."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


class Quickstart:
    """Runs of `main_ppo --config-name quickstart`, small enough for a test."""

    def __init__(self, data: Path) -> None:
        self.data = data

    def command(self, folder: Path, *overrides: str) -> list[str]:
        settings = {
            "data.train_files": self.data / "train.parquet",
            "data.val_files": self.data / "test.parquet",
            "data.val_max_samples": 8,
            "data.train_batch_size": 8,
            "actor_rollout_ref.actor.ppo_mini_batch_size": 4,
            "actor_rollout_ref.rollout.n": 4,
            "actor_rollout_ref.rollout.val_kwargs.n": 2,
            "trainer.default_local_dir": folder,
        }
        arguments = [f"{key}={value}" for key, value in settings.items()]
        return [
            sys.executable, "-m", "verl.trainer.main_ppo", "--config-name", "quickstart", *arguments, *overrides
        ]  # fmt: skip

    def run(self, folder: Path, *overrides: str) -> None:
        """Run to the end; a failure shows the run's output."""
        done = subprocess.run(self.command(folder, *overrides), cwd=ROOT, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-5000:]

    def kill_after_step(self, step: int, folder: Path, *overrides: str) -> None:
        """Start, and SIGKILL the driver as soon as the checkpoint of `step` is there, wherever it is by then."""
        process = subprocess.Popen(
            self.command(folder, *overrides), cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        deadline = time.monotonic() + 300
        while not (folder / f"global_step_{step}").exists():
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.02)
        process.kill()
        assert process.wait() == -signal.SIGKILL, "the run was over before it could be killed"


def read_metrics(folder: Path) -> list[dict]:
    path = folder / "metrics.jsonl"
    text = path.read_text() if path.exists() else ""
    return [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines()]  # the last one may be half written
