"""Which walls are chosen, what is said where there are none, and that nothing survives the grader."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from process_tree import descendants, is_running
from sandbox_case import CONFIG, limits

from verl.config.sandbox import SandboxConfig
from verl.sandbox import Job, Sandbox, SandboxError, isolation_problem, pool
from verl.sandbox.worker import Worker

HELLO = Job("print('hello')", "stdin", limits())


@pytest.fixture
def no_walls(monkeypatch):
    """A machine on which neither bubblewrap nor namespaces work."""

    def refused(kind, cpu):
        if kind != "none":
            raise SandboxError(f"{kind}: unshare: Operation not permitted")
        return Worker(kind, cpu)

    monkeypatch.setattr(pool, "Worker", refused)


def test_without_walls_the_sandbox_refuses_and_names_the_package(no_walls):
    with pytest.raises(SandboxError, match="namespaces: unshare: Operation not permitted") as refusal:
        Sandbox(CONFIG)
    assert "apt-get install bubblewrap" in str(refusal.value)
    assert "sandbox.allow_unisolated=true" in str(refusal.value)
    assert isolation_problem(CONFIG) == str(refusal.value)


def test_unisolated_runs_only_when_asked_and_says_what_is_not_protected(no_walls):
    config = SandboxConfig(num_workers=1, allow_unisolated=True)
    with pytest.warns(UserWarning, match="read and change this user's files"):
        box = Sandbox(config)
    assert box.kind == "none"
    daemon = Job(
        "import os, time\nprint('hello')\nif not os.fork():\n    os.setsid()\n    time.sleep(1000)", "stdin", limits()
    )
    assert box.run(daemon).stdout == "hello\n"
    assert box.run(Job("while True: pass", "stdin", limits(0.3))).status == "timeout"
    folder = box.run(Job("import os\nprint(os.getcwd())", "stdin", limits())).stdout.strip()
    assert not os.path.exists(folder)
    box.close()


def test_walls_are_found_although_unisolated_is_allowed():
    if isolation_problem(CONFIG):
        pytest.skip("no isolation on this machine")
    box = Sandbox(SandboxConfig(num_workers=1, allow_unisolated=True))
    assert box.kind in ("bubblewrap", "namespaces")
    box.close()


def test_nothing_survives_a_killed_grader(sandbox):
    """Ray ends workers with SIGKILL, in the middle of an attempt."""
    grader = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "from sandbox_case import *\nimport hostile_programs, threading\nfrom verl.sandbox import Job, Sandbox\n"
            f"box = Sandbox(CONFIG, kinds=({sandbox.kind!r},))\n"
            "job = Job(hostile_programs.ATTACKS['fork bomb'].source, 'stdin', limits(60.0))\n"
            "threading.Thread(target=box.run, args=(job,), daemon=True).start()\n"
            "import time; time.sleep(0.5); print('going', flush=True); time.sleep(60)",
        ],
        cwd=Path(__file__).parent,
        env=os.environ | {"PYTHONPATH": f"{Path(__file__).parents[2]}"},
        stdout=subprocess.PIPE,
    )
    assert grader.stdout.readline() == b"going\n"
    below = descendants(grader.pid)
    assert below
    grader.kill()
    grader.wait()
    deadline = time.monotonic() + 20
    while any(map(is_running, below)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not [pid for pid in below if is_running(pid)]


def test_user_namespaces_serve_who_is_not_root():
    """The way of an ordinary user, tried from within a user namespace, where root is one as well."""
    program = """
from sandbox_case import *
from verl.sandbox import Job, Sandbox, SandboxError
for kind in ("namespaces", "bubblewrap"):
    try:
        box = Sandbox(CONFIG, kinds=(kind,))
        print(box.run(Job("import os; print(os.getuid(), os.listdir('/tmp'))", "stdin", limits())).stdout)
    except SandboxError as error:
        print(error)
"""
    done = subprocess.run(
        ["unshare", "--user", "--map-user=1000", "--map-group=1000", sys.executable, "-c", program],
        cwd=Path(__file__).parent,
        env=os.environ | {"PYTHONPATH": f"{Path(__file__).parents[2]}"},
        capture_output=True,
        text=True,
    )
    if "Operation not permitted" in done.stderr:
        pytest.skip("no user namespaces on this machine")
    assert "1000 ['Solution.py']" in done.stdout, done.stderr + done.stdout
