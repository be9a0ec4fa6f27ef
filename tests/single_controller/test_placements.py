"""Plans against what Ray does with them, on four machines of 8 GPUs that are pretended (raylets on this machine)."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def told():
    """What the driver on that cluster says, by case."""
    command = [sys.executable, str(HERE / "placements.py")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stdout + done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    return {line["case"]: line for line in lines}


@pytest.mark.slow
@pytest.mark.parametrize(("case", "num_gpus"), [("2 colocated", 2), ("4 + 4 on one machine", 8)])
def test_ranks_find_themselves_where_the_plan_says(told, case, num_gpus):
    """The plan numbers machines and their GPUs; Ray has other names for them, but each name stands for one number."""
    planned: list[tuple[int, int]] = []
    found: list[tuple[str, str]] = []
    machines: set[tuple[int, str]] = set()
    for role in ("actor", "rollout"):
        for (node, slots), (name, devices) in zip(told[case]["plan"][role], told[case]["found"][role], strict=True):
            machines.add((node, name))
            planned += [(node, slot) for slot in slots]
            found += [(name, device) for device in devices.split(",")]
    assert len(found) == len(planned)
    gpus = set(zip(planned, found, strict=True))
    assert len(gpus) == len(set(planned)) == len(set(found)) == num_gpus
    assert len(machines) == 1


@pytest.mark.slow
@pytest.mark.parametrize(
    ("case", "gpus"),
    [
        ("8 colocated", [8]),
        ("8 + 8", [4, 4, 8]),
        ("32 colocated", [8, 8, 8, 8]),
        ("16 + 16 on all machines", [8, 8, 8, 8]),
    ],
)
def test_ray_keeps_what_the_plan_says_on_different_machines(told, case, gpus):
    assert told[case]["slots"] == gpus
    nodes = told[case]["reserved"]
    assert sorted(map(len, nodes)) == gpus
    assert all(len(set(each)) == 1 for each in nodes)
    assert len({each[0] for each in nodes}) == len(gpus)


@pytest.mark.slow
def test_what_the_cluster_does_not_have_is_said(told):
    assert "4 machine(s) with 8 GPU(s) each for training ranks" in told["impossible"]["error"]
    assert "Missing: 1 machine(s) with 4 free GPU(s) for rollout engines." in told["impossible"]["error"]
