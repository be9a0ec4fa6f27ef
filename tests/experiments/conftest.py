"""Run launchers as a user does, in an environment that says nothing about a cluster, and read what they print."""

import os
import shlex
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SUBMITTED = "Would submit job for: "
HERE = "Would run here: "


@dataclass
class Job:
    """One run of a dry run."""

    name: str
    line: str
    """The command as printed."""

    @property
    def sbatch(self):
        return shlex.split(self.line)

    @property
    def command(self):
        """What the job runs, without Slurm: verl_training.sh or python.sh, and their arguments."""
        words = self.sbatch if self.line.startswith("(cd") else shlex.split(self.sbatch[-1].removeprefix("--wrap="))
        start = next(i for i, word in enumerate(words) if word.endswith(("verl_training.sh", "python.sh")))
        return [word.removesuffix(")") for word in words[start + 1 :]]


def jobs_in(stdout):
    lines = stdout.splitlines()
    return [
        Job(line.partition(": ")[2], lines[i + 1]) for i, line in enumerate(lines) if line.startswith((SUBMITTED, HERE))
    ]


@pytest.fixture
def launch(tmp_path):
    """`launch(script, *arguments, **environment)`: the finished process. Logs and data are in the test's folder."""
    kept = {key: os.environ[key] for key in ("PATH", "HOME", "USER") if key in os.environ}
    kept |= {"CLUSTER_LOG_DIR": str(tmp_path / "logs"), "CLUSTER_DATA_DIR": str(tmp_path / "data")}

    def run(script, *arguments, **environment):
        command = ["bash", str(ROOT / "experiments" / script), *arguments]
        env = kept | environment
        return subprocess.run(command, capture_output=True, text=True, env=env, cwd=tmp_path, stdin=subprocess.DEVNULL)

    return run


@pytest.fixture
def dry_run(launch):
    """`dry_run(script, *arguments, **environment)`: the jobs that would be submitted or run."""

    def run(script, *arguments, **environment):
        process = launch(script, "--dry-run", *arguments, **environment)
        assert process.returncode == 0, process.stderr
        return jobs_in(process.stdout)

    return run


@pytest.fixture
def program(tmp_path):
    """`program(name, text)`: a bash program in a folder of its own; returns that folder, for a PATH."""

    def write(name, text):
        folder = tmp_path / "programs"
        folder.mkdir(exist_ok=True)
        (folder / name).write_text(f"#!/usr/bin/env bash\n{text}\n")
        (folder / name).chmod(0o755)
        return folder

    return write


@pytest.fixture
def few_programs(tmp_path):
    """A folder with all that a launcher needs besides bash itself, for a PATH without Slurm, Python or a GPU."""
    folder = tmp_path.parent / f"{tmp_path.name}-programs"
    folder.mkdir()
    for name in ("bash", "dirname", "basename", "mkdir", "realpath", "sort", "uniq", "awk"):
        (folder / name).symlink_to(shutil.which(name) or pytest.fail(name))
    return folder
