"""Processes of this machine, as /proc shows them."""

import os
from pathlib import Path


def descendants(root=None):
    """Living processes below `root` (default: this one)."""
    root = root or os.getpid()
    parents = {}
    for folder in Path("/proc").glob("[0-9]*"):
        if fields := stat(folder.name):
            parents[int(folder.name)] = int(fields[1])
    found = {root}
    while more := {pid for pid, parent in parents.items() if parent in found} - found:
        found |= more
    return {pid for pid in found - {root} if is_running(pid)}


def is_running(pid):
    fields = stat(pid)
    return bool(fields) and fields[0] != "Z"


def stat(pid):
    """Fields from the state on; none when the process has gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
    except OSError:
        return []
