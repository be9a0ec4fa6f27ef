"""Submit jobs to the tests' Slurm and see what becomes of them."""

import os
import re
import subprocess
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "tests/slurm/local_slurm.sh"
ENDED = {"COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL"}
MOST_SECONDS = 560.0


class Slurm:
    """Commands against the Slurm of `local_slurm.sh`."""

    def __init__(self, folder: Path) -> None:
        self.logs = folder / "logs"
        self.logs.mkdir()
        self.env = os.environ | {"SLURM_CONF": str(folder / "slurm.conf"), "CLUSTER_LOG_DIR": str(self.logs)}

    def call(self, *command: str, **env: str) -> str:
        done = subprocess.run(command, cwd=ROOT, env=self.env | env, capture_output=True, text=True)
        assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
        return done.stdout

    def submit(self, *command: str, **env: str) -> str:
        """Run a command that submits one job; returns its number."""
        (job,) = re.findall(r"^Submitted batch job (\d+)$", self.call(*command, **env), re.MULTILINE)
        return job

    def submit_command(self, *command: str, options: tuple[str, ...] = (), **env: str) -> str:
        """Submit `job.sh` with a command, as the launchers do."""
        output = f"--output={self.logs}/%j.log"
        return self.submit("sbatch", "--open-mode=append", output, *options, "experiments/lib/job.sh", *command, **env)

    def facts(self, job: str) -> dict[str, str]:
        """What Slurm says of a job: JobState, Restarts, ExitCode, ..."""
        pairs = (word.partition("=") for word in self.call("scontrol", "show", "job", job).split())
        return {name: value for name, _, value in pairs}

    def log(self, job: str) -> str:
        return "".join(path.read_text() for path in sorted(self.logs.glob(f"{job}.*")))

    def wait_for_text(self, job: str, text: str) -> None:
        self._wait(job, lambda: text in self.log(job), f"no '{text}'")

    def wait_until_queued_again(self, job: str) -> None:
        self._wait(job, lambda: self.facts(job)["JobState"] == "PENDING" and self.facts(job)["Restarts"] != "0", "")
        # By itself Slurm waits two minutes. Not at once: credentials of the second of the requeue are revoked.
        self.call("scontrol", "update", f"JobId={job}", "StartTime=now+5")

    def wait_until_ended(self, job: str) -> dict[str, str]:
        self._wait(job, lambda: self.facts(job)["JobState"] in ENDED, "not ended")
        return self.facts(job)

    def _wait(self, job: str, is_so, problem: str) -> None:
        deadline = time.monotonic() + MOST_SECONDS
        while not is_so():
            facts = self.facts(job)
            is_late = time.monotonic() > deadline or (facts["JobState"] in ENDED and not is_so())
            assert not is_late, f"{problem}: {facts}\n{self.log(job)[-5000:]}"
            time.sleep(0.5)
