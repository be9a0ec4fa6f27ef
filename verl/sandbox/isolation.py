"""Which walls this machine can put up, and the command that starts a worker between them.

Bubblewrap and the namespaces of `inside.room` build the same room: the system's libraries, the Python installation
(without the packages of this environment, but for numpy and sortedcontainers), and nothing else, all read-only. Who is
root steps down inside to a user id that owns nothing.
"""

from __future__ import annotations

import importlib.util
import json
import os
import secrets
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Kind = Literal["bubblewrap", "namespaces", "none"]

_INSIDE = Path(__file__).parent / "inside"
_CODE, _PACKAGES = "/grader", "/packages"
_SYSTEM = ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32", "/etc/ld.so.cache", "/etc/localtime")
_DEVICES = ("/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom")
_STREAMS = {
    "/dev/fd": "/proc/self/fd",
    "/dev/stdin": "/proc/self/fd/0",
    "/dev/stdout": "/proc/self/fd/1",
    "/dev/stderr": "/proc/self/fd/2",
}
_OFFERED = ("numpy", "sortedcontainers")
_PYTHON_OPTIONS = ("-s", "-P", "-S", "-B", "-X", "utf8")
_LARGEST_USER, _NUM_SPARE_USERS = 2**31, 10_000
_NEEDED = 1 << 6 | 1 << 7 | 1 << 21  # CAP_SETGID, CAP_SETUID, CAP_SYS_ADMIN


@dataclass(frozen=True)
class Start:
    """A process to be started."""

    command: list[str]
    environment: dict[str, str]


def start(kind: Kind, control: int) -> Start:
    """How to start a worker whose control socket is file descriptor `control`."""
    user = _spare_user() if kind != "none" else None
    settings = json.dumps({"isolated": kind != "none", "user": user})
    inner = [_python(), *_PYTHON_OPTIONS, "-m", "inside.template", str(control), settings]
    paths = _paths()
    if kind == "bubblewrap":
        return Start([*_bubblewrap(paths, user is not None), *inner], _environment(_CODE, _PACKAGES))
    if kind == "namespaces":
        room = {
            "shown": [*paths.shown, *((device, device) for device in _DEVICES)],
            "links": list(paths.links.items()),
            "privileged": user is not None,
            "command": inner,
            "environment": _environment(_CODE, _PACKAGES),
        }
        outer = [_python(), *_PYTHON_OPTIONS, "-m", "inside.room", json.dumps(room)]
        return Start(outer, _environment(str(_INSIDE.parent)))
    packages = {str(Path(source).parent) for source, _ in _packages()}
    return Start(inner, _environment(str(_INSIDE.parent), *sorted(packages)))


@dataclass(frozen=True)
class _Paths:
    shown: list[tuple[str, str]]
    """Files and folders: path outside, path inside."""
    links: dict[str, str]
    """Path inside, and what it points to."""


def _paths() -> _Paths:
    links = {path: os.readlink(path) for path in _SYSTEM if os.path.islink(path) and os.path.isdir(path)}
    system = [path for path in _SYSTEM if path not in links and os.path.exists(path)]
    for prefix in dict.fromkeys((sys.base_prefix, sys.base_exec_prefix)):
        if not any(Path(prefix).is_relative_to(path) for path in system):
            system.append(prefix)
    shown = [(os.path.realpath(path), path) for path in system]
    return _Paths([*shown, (str(_INSIDE), f"{_CODE}/inside"), *_packages()], links | _STREAMS)


def _packages() -> list[tuple[str, str]]:
    """The third-party packages a program may import, and the libraries that come with their wheels."""
    found: list[tuple[str, str]] = []
    for name in _OFFERED:
        spec = importlib.util.find_spec(name)
        for folder in (spec.submodule_search_locations or []) if spec else []:
            found += [
                (path, f"{_PACKAGES}/{Path(path).name}") for path in (folder, f"{folder}.libs") if Path(path).is_dir()
            ]
    return found


def _bubblewrap(paths: _Paths, privileged: bool) -> list[str]:
    command = [shutil.which("bwrap") or "bwrap", "--unshare-pid", "--unshare-net", "--unshare-ipc", "--unshare-uts"]
    if privileged:  # to step down, and to have a /proc of its own before that
        command += ["--cap-add", "CAP_SETUID", "--cap-add", "CAP_SETGID", "--cap-add", "CAP_SYS_ADMIN"]
    else:
        command += ["--unshare-user"]
    inner = [target for _, target in paths.shown] + list(paths.links)
    for parent in sorted({str(parent) for path in inner for parent in Path(path).parents} - {"/"}):
        command += ["--perms", "0755", "--dir", parent]
    for source, target in paths.shown:
        command += ["--ro-bind", source, target]
    for device in _DEVICES:
        command += ["--dev-bind", device, device]
    for path, target in paths.links.items():
        command += ["--symlink", target, path]
    command += ["--proc", "/proc", "--dir", "/tmp", "--dir", "/dev/shm"]
    return [*command, "--remount-ro", "/", "--"]


def _python() -> str:
    """The interpreter itself, where a virtual environment only links to it."""
    return os.path.realpath(sys.executable)


def _environment(*python_path: str) -> dict[str, str]:
    """All that programs find in their environment. Hashes are fixed, so that a verdict can be repeated."""
    return {
        "PATH": "/usr/bin:/bin",
        "HOME": "/tmp",
        "TMPDIR": "/tmp",
        "LANG": "C.UTF-8",
        "PYTHONPATH": ":".join(python_path),
        "PYTHONHASHSEED": "0",
        "OMP_NUM_THREADS": "1",
        "MALLOC_ARENA_MAX": "1",  # each further one reserves 64 MiB of a limit that counts addresses
        "OPENBLAS_NUM_THREADS": "1",
    }


def _spare_user() -> int | None:
    """For a root who may do all that is needed: a user id that nobody has. Others get a user namespace instead."""
    if not _is_privileged():
        return None
    ranges = [list(map(int, line.split())) for line in Path("/proc/self/uid_map").read_text().splitlines()]
    top = min(max(first + count for first, _, count in ranges), _LARGEST_USER)
    return top - 2 - secrets.randbelow(_NUM_SPARE_USERS) if top > 2 * _NUM_SPARE_USERS else None


def _is_privileged() -> bool:
    status = Path("/proc/self/status").read_text()
    capabilities = int(status.partition("CapEff:")[2].split()[0], 16)
    return os.geteuid() == 0 and capabilities & _NEEDED == _NEEDED
