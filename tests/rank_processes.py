"""Several gloo ranks, each in its own process, as a trainer's are: a script is run once for each."""

import socket
import subprocess
import sys
from pathlib import Path


def run_ranks(script: Path, folder: Path, num_ranks: int = 2) -> None:
    """Run `script <folder> <port> <rank>` for every rank at once, to the end; a failure shows what the ranks said.

    Args:
        script: a Python program; its ranks meet at 127.0.0.1:<port>, and leave results in the folder.
        folder: whatever the script takes from there and puts there.
        num_ranks: how many meet; the script knows the number.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, str(script), str(folder), str(port)]
    ranks = [subprocess.Popen([*command, str(r)], stderr=subprocess.PIPE, text=True) for r in range(num_ranks)]
    try:
        errors = [rank.communicate(timeout=240)[1] for rank in ranks]
    finally:
        for rank in ranks:
            rank.kill()
    assert all(rank.returncode == 0 for rank in ranks), "\n".join(errors)
