"""Hostile programs: what is theirs ends with them, and the grader, its neighbours and the verdict stand."""

import os
import random
import socket
import time
from pathlib import Path

import hostile_programs as hostile
import pytest
from process_tree import descendants
from sandbox_case import limits, run_together

from verl.sandbox import Job


@pytest.fixture(scope="session")
def secrets(tmp_path_factory):
    """The input of the attacks: a file, a port and a socket that exist only outside."""
    path = tmp_path_factory.mktemp("grader") / "expected.txt"
    path.write_text("42")
    name = f"grader-{random.getrandbits(64)}"
    with socket.create_server(("127.0.0.1", 0)) as server, socket.socket(socket.AF_UNIX) as local:
        local.bind("\0" + name)
        local.listen()
        yield f"{path}\n{server.getsockname()[1]}\n{name}\n"


def honest(sandbox):
    return sandbox.run(Job(hostile.HONEST, "stdin", limits())).stdout.strip() == hostile.HIDDEN


@pytest.mark.parametrize("name", hostile.ATTACKS)
def test_attack_is_contained(sandbox, secrets, name):
    attack = hostile.ATTACKS[name]
    assert honest(sandbox)
    before = descendants()
    job = Job(
        attack.source,
        attack.mode,
        limits(attack.wall),
        stdin=secrets,
        function="add",
        arguments=[2, 2],
        test_code=hostile.ENOUGH,
    )
    outcome = sandbox.run(job)
    assert outcome.status == attack.end, outcome
    assert outcome.stdout.strip() == "contained" or outcome.status != "ok", outcome
    assert "ESCAPED" not in outcome.stdout
    assert descendants() <= before, "the attempt, or a new worker"
    listing = "import os; print(sorted(os.listdir('/tmp') + os.listdir('/dev/shm')))"
    assert sandbox.run(Job(listing, "stdin", limits())).stdout == "['Solution.py', 'Solution.py']\n"
    assert honest(sandbox)


def test_nothing_was_written_outside():
    places = ["/", "/usr", "/dev", "/etc", "/tmp", "/dev/shm", "/var", os.path.dirname(os.__file__), "/root"]
    assert not [p for place in places for p in (f"{place}/mark", f"{place}/left-behind") if os.path.exists(p)]


@pytest.mark.parametrize("bomb", ["fork bomb", "busy loop", "memory bomb of many processes", "endless debug texts"])
def test_neighbours_do_not_notice(sandbox, bomb):
    """Honest programs keep to a limit of processor time, and none dies, while a bomb goes off beside them."""
    neighbour = Job("print(sum(i * i for i in range(100_000)))", "stdin", limits(wall=20.0, cpu=1.0))
    attack = Job(hostile.ATTACKS[bomb].source, "stdin", limits(1.0))
    outcomes = run_together(sandbox, [attack, *[neighbour] * 8])
    assert [o.stdout for o in outcomes[1:]] == ["333328333350000\n"] * 8
    assert outcomes[0].status in ("timeout", "limit")


def test_time_is_counted_from_its_own_start(sandbox):
    """Forty naps of 0.1 s on two workers take 2 s, none more than its limit."""
    nap = Job("import time; time.sleep(0.1)", "stdin", limits(1.5))
    begin = time.monotonic()
    outcomes = run_together(sandbox, [nap] * 40)
    assert [o.status for o in outcomes] == ["ok"] * 40
    assert time.monotonic() - begin > 1.9


def test_a_lost_worker_is_replaced(sandbox):
    """Workers die for reasons of their own (memory of the machine, an operator)."""
    before = descendants()
    for pid in before:
        if b"inside.template" in Path(f"/proc/{pid}/cmdline").read_bytes():
            os.kill(pid, 9)
    assert [honest(sandbox) for _ in range(3)] == [True] * 3
