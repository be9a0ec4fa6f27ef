"""Processes of a run, seen from outside: which are there, and that none of them is left."""

import time
from collections.abc import Callable
from pathlib import Path


def processes_with(mark: str) -> list[str]:
    """Command lines of the processes whose environment holds `mark` (`NAME=value`), inherited from the test.

    Ray's own agents are left out: they look for their raylet only now and then, and end within half a minute.
    """
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if mark.encode() in (folder / "environ").read_bytes():
                found.append((folder / "cmdline").read_text().replace("\0", " ")[:100])
        except OSError:
            continue  # it ended while we looked
    return [line for line in found if line and "Agent" not in line]  # a zombie has no command line


def worker_pids(folder: Path, name: str = "*") -> list[int]:
    """Processes that write the log of this worker of the run, `<role>-<rank>`, or of any.

    Args:
        folder: of the run.
        name: may hold wildcards.
    """
    logs = (folder / "logs").absolute()
    outputs = ((int(link.parts[2]), _target_of(link)) for link in Path("/proc").glob("[0-9]*/fd/2"))
    return [pid for pid, path in outputs if path and path.parent == logs and path.match(f"{name}.log")]


def wait_until_gone(pids: list[int], seconds: float = 60.0) -> None:
    """Fail if one of these processes is there for longer than that."""
    _wait_until_none(lambda: [pid for pid in pids if Path(f"/proc/{pid}").exists()], seconds)


def wait_until_none_with(mark: str, seconds: float) -> None:
    """Fail if there are `processes_with` the mark for longer than that."""
    _wait_until_none(lambda: processes_with(mark), seconds)


def _wait_until_none(those_left: Callable[[], list], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while left := those_left():
        assert time.monotonic() < deadline, f"outlived its run: {left}"
        time.sleep(0.1)


def _target_of(link: Path) -> Path | None:
    """None when it is not there any more."""
    try:
        return link.readlink()
    except OSError:
        return None
