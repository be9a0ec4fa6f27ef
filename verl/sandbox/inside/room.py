"""Builds the walls with Linux namespaces, where there is no bubblewrap, and then runs a command between them.

`python -m inside.room '{"shown": [[outside, inside], ...], "links": [[path, target], ...], "privileged": bool,
"command": [...], "environment": {...}}'`

The command sees what is listed, an empty /tmp and its own /proc, all of it read-only, and no network; it
is process 1, and when it ends nothing of it is left. Started by root, it runs as root of no less power (and is to step
down itself); otherwise in a user namespace, as the same user.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

from . import kernel

_BASE = "/tmp"  # exists everywhere; covered, in this process' view only, while the new root is made
_OLD, _NEW = "/old", "/new"


def main() -> None:
    room = json.loads(sys.argv[1])
    kinds = kernel.NEWNS | kernel.NEWPID | kernel.NEWNET | kernel.NEWIPC | kernel.NEWUTS
    if room["privileged"]:
        kernel.unshare(kinds)
    else:
        kernel.own_user_namespace(kinds, os.geteuid())
    child = os.fork()  # the first one in the new namespace of processes
    if child:
        os._exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) & 0xFF)
    build(room["shown"], room["links"])
    os.execve(room["command"][0], room["command"], room["environment"])


def build(shown: list[tuple[str, str]], links: list[tuple[str, str]]) -> None:
    """Replace this process' view of the file system."""
    os.umask(0o022)
    kernel.mount("none", "/", flags=kernel.PRIVATE | kernel.RECURSIVE)
    kernel.mount("tmpfs", _BASE, "tmpfs", kernel.NOSUID | kernel.NODEV, "mode=755,size=1m")
    for folder in (_OLD, _NEW):
        os.mkdir(_BASE + folder)
    kernel.pivot_root(_BASE, _BASE + _OLD)
    os.chdir("/")
    kernel.mount("tmpfs", _NEW, "tmpfs", kernel.NOSUID, "mode=755,size=1m")
    for source, target in shown:
        _show(source, target)
    for path, target in links:
        Path(_NEW + path).parent.mkdir(parents=True, exist_ok=True)
        os.symlink(target, _NEW + path)
    for folder in ("/tmp", "/proc", "/dev/shm"):
        Path(_NEW + folder).mkdir(parents=True, exist_ok=True)
    kernel.mount("proc", _NEW + "/proc", "proc", kernel.NOSUID | kernel.NODEV | kernel.NOEXEC)
    kernel.detach(_OLD)
    os.chdir(_NEW)
    kernel.pivot_root(".", ".")
    kernel.detach(".")
    os.chdir("/")
    kernel.read_only("/", recursive=False)


def _show(source: str, target: str) -> None:
    """Bind a file or folder of the old root into the new one."""
    inner = Path(_NEW + target)
    if os.path.isdir(_OLD + source):
        inner.mkdir(parents=True, exist_ok=True)
    else:
        inner.parent.mkdir(parents=True, exist_ok=True)
        inner.touch()
    kernel.mount(_OLD + source, str(inner), flags=kernel.BIND | kernel.RECURSIVE)
    kernel.read_only(str(inner))


if __name__ == "__main__":
    main()
