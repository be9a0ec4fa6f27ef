"""What a run leaves behind: processes, found by a variable that they inherited from the test."""

from pathlib import Path


def processes_with(mark: str) -> list[str]:
    """Command lines of the processes whose environment holds `mark` (`NAME=value`).

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
