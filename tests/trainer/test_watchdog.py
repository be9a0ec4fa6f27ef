"""Runs that stand still: the report says where, and the run ends with it. Real processes that really hang."""

import os
import signal
import subprocess
import sys
import threading
import time

import pytest
from leftovers import wait_until_gone

from verl.trainer.phases import Phases
from verl.trainer.watchdog import Stalled, watchdog


def test_phases_nest_and_count():
    phases = Phases()
    assert str(phases) == "between phases"
    with phases("step"), phases("gen"):
        assert str(phases) == "step > gen"
        assert phases.num_moves == 2
    assert phases.num_moves == 4


def test_workers_that_hang_are_reported_and_then_ended(make_toys, tmp_path):
    group, other = make_toys(), make_toys(role="other")
    pids = group.pid() + other.pid()
    phases = Phases()
    with (
        pytest.raises(Stalled) as caught,
        watchdog(2.0, [group, other], phases, tmp_path / "logs"),
        phases("step"),
        phases("update_actor"),
    ):
        group.fail_on(5, waits=True)  # waits for a lock that nobody gives back
    text = str(caught.value)
    assert "twice trainer.watchdog_seconds=2) in phase step > update_actor. All processes are alive" in text
    assert text.endswith(str(tmp_path / "logs" / "stall-2.txt"))
    for number in (1, 2):
        report = (tmp_path / "logs" / f"stall-{number}.txt").read_text()
        assert "The driver is in phase: step > update_actor." in report
        for rank, pid in enumerate(pids):
            assert f"{'toy' if rank < 2 else 'other'} rank {rank % 2}, process {pid} on " in report
        assert report.count("in fail_on") == 2  # where the two ranks of one group are; the other one is idle
        assert "test_workers_that_hang_are_reported_and_then_ended" in report  # where the driver is
    wait_until_gone(pids)


def test_a_stopped_process_is_named_as_the_cause(make_toys, tmp_path):
    group = make_toys()
    pids = group.pid()
    os.kill(pids[1], signal.SIGSTOP)
    with pytest.raises(Stalled, match=rf"toy rank 1, process {pids[1]} on .*: stopped by a signal \(SIGSTOP\)"), \
            watchdog(1.0, [group], Phases(), tmp_path):  # fmt: skip
        group.add(1)
    wait_until_gone(pids)


def test_a_run_that_moves_is_left_alone(make_toys, tmp_path):
    group, phases = make_toys(), Phases()
    with watchdog(3.0, [group], phases, tmp_path / "logs"):
        end = time.monotonic() + 7
        while time.monotonic() < end:
            group.add(1)
            time.sleep(0.05)
    assert not (tmp_path / "logs").exists()


def test_other_errors_and_interrupts_stay_what_they_are(make_toys, tmp_path):
    for error in (ValueError("mine"), KeyboardInterrupt()):
        with pytest.raises(type(error)) as caught, watchdog(60.0, [], Phases(), tmp_path):
            raise error
        assert caught.value is error


@pytest.mark.parametrize("trouble", ["cannot be written", "hangs"])
def test_a_report_that_cannot_be_kept_ends_the_run_all_the_same(make_toys, tmp_path, monkeypatch, caplog, trouble):
    monkeypatch.setattr("verl.trainer.watchdog.WRITE_SECONDS", 0.3)
    folder = tmp_path / "reports"
    if trouble == "hangs":  # whoever opens a pipe that nobody reads waits, as with a file server that is gone
        folder.mkdir()
        os.mkfifo(folder / "stall-2.txt")
    else:
        folder.write_text("a file where the folder should be")
    group = make_toys()
    pids = group.pid()
    with pytest.raises(Stalled, match=r"Where each of them stands: the driver's log"), \
            watchdog(1.0, [group], Phases(), folder):  # fmt: skip
        group.fail_on(5, waits=True)
    wait_until_gone(pids)
    assert caplog.text.count(f"The watchdog goes on without writing the report to {folder}: ") == 2
    assert ("FileExistsError" if trouble == "cannot be written" else "not done within 0.3 s") in caplog.text
    assert f"toy rank 1, process {pids[1]} on " in caplog.text  # the report itself
    if trouble == "hangs":
        os.close(os.open(folder / "stall-2.txt", os.O_RDONLY | os.O_NONBLOCK))  # frees the threads that wait


@pytest.mark.parametrize("trouble", ["fails", "hangs"])
def test_workers_that_cannot_be_asked_are_ended_all_the_same(make_toys, tmp_path, monkeypatch, trouble):
    """What Ray does then is not for a test to bring about: its part is played here."""
    never = threading.Event()

    def standing():
        if trouble == "hangs":
            never.wait()
        raise ConnectionError("Ray is gone")

    monkeypatch.setattr("verl.trainer.watchdog.ASK_SECONDS", 0.3)
    group, other = make_toys(), make_toys(role="other")
    monkeypatch.setattr(group, "standing", standing)
    pids = group.pid() + other.pid()
    with pytest.raises(Stalled, match=r"toy: where it stands could not be found out\. "), \
            watchdog(1.0, [group, other], Phases(), tmp_path):  # fmt: skip
        group.fail_on(5, waits=True)
    wait_until_gone(pids)
    report = (tmp_path / "stall-2.txt").read_text()
    assert "toy: where it stands could not be found out" in report
    assert f"other rank 0, process {pids[2]} on " in report
    never.set()


HANGING_DRIVER = """
import sys, threading
from pathlib import Path
from verl.trainer import watchdog
from verl.trainer.phases import Phases

watchdog.FREE_SECONDS = 0.5
phases, folder = Phases(), Path(sys.argv[1])
def give_up(stalled):
    (folder / "given_up").write_text(str(stalled))
    raise OSError("and then the disk was full")
with watchdog.watchdog(0.5, [], phases, folder, give_up), phases("Track"):
    threading.Lock().acquire() and threading.Event().wait()
"""


def test_a_driver_that_hangs_itself_ends(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", HANGING_DRIVER, str(tmp_path)], capture_output=True, text=True, timeout=100
    )
    assert done.returncode == 1, done.stderr
    assert "The driver itself hangs" in done.stderr
    assert "goes on without noting why the run ends: OSError('and then the disk was full')" in done.stderr
    assert "in phase Track" in (tmp_path / "given_up").read_text()
