"""Two nodes (two raylets on this machine), of which one is lost; in a process of its own: Ray joins one cluster."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent


@pytest.mark.slow
def test_a_lost_node_is_named_with_the_rank_that_went_with_it():
    done = subprocess.run([sys.executable, str(HERE / "lose_a_node.py")], capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stdout + done.stderr
    message, rest = done.stdout.split("REPLACED\n")
    replaced, second = rest.split("SECOND GROUP\n")
    pattern = r"^toy rank (\d) on .* failed: WorkerDied: its node was lost \(.*\), and toy rank\(s\) (\d) with it$"
    first = re.search(pattern, message, re.MULTILINE)
    assert first and first[1] == first[2], message  # Ray chose which of the two nodes a rank is on
    nowhere = r"^spare rank (\d) on [\d.]+ failed: WorkerDied: its node was lost, and with it the place for another$"
    assert (match := re.search(nowhere, replaced, re.MULTILINE)) and match[1] == first[1], replaced
    assert "The run asks for 2 machine(s) with 1 place(s) for CPU processes each for training ranks" in second
    assert "Missing: 1 machine(s) with 1 free place(s) for CPU processes for training ranks." in second
