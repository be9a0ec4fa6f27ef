"""metrics.jsonl after interruptions."""

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from verl.tracking.base import RunInfo
from verl.tracking.file import FileTracker


def write(folder, start, steps):
    tracker = FileTracker(RunInfo("p", "e", folder))
    tracker.start_from(start)
    for step in steps:
        tracker.log({"loss": step / 7}, step)
    tracker.finish("finished")
    return (folder / "metrics.jsonl").read_text()


@given(crash=st.integers(1, 9), saved=st.integers(1, 9), torn=st.integers(0, 30))
def test_a_resumed_file_equals_an_uninterrupted_one(tmp_path_factory, crash, saved, torn):
    crash, saved = max(crash, saved), min(crash, saved)
    whole = write(tmp_path_factory.mktemp("whole"), 0, range(10))
    folder = tmp_path_factory.mktemp("resumed")
    write(folder, 0, range(crash + 1))
    with (folder / "metrics.jsonl").open("a") as file:
        file.write(json.dumps({"step": crash + 1, "loss": 0.123456789})[:torn])  # killed while writing
    assert write(folder, saved, range(saved + 1, 10)) == whole


def test_a_new_run_keeps_the_old_file_aside(tmp_path):
    old = write(tmp_path, 0, range(5))
    assert write(tmp_path, 0, range(2)).count("\n") == 2
    assert (tmp_path / "metrics.jsonl.old").read_text() == old


def test_each_line_is_on_disk_when_log_returns_and_is_strict_json(tmp_path):
    tracker = FileTracker(RunInfo("p", "e", tmp_path))
    tracker.start_from(0)
    tracker.log({"loss": math.nan, "score": 0.5, "gap": math.inf}, 1)
    text = (tmp_path / "metrics.jsonl").read_text()
    assert text == '{"step": 1, "loss": null, "score": 0.5, "gap": null}\n'


@pytest.mark.parametrize("start", [0, 2])
def test_a_start_that_failed_is_made_up_for(tmp_path, start):
    """A file stands where the run folder should be, for a while."""
    write(tmp_path / "old", 0, range(4))
    folder = tmp_path / "run"
    folder.write_text("")
    tracker = FileTracker(RunInfo("p", "e", folder))
    with pytest.raises(OSError):
        tracker.start_from(start)
    with pytest.raises(OSError):
        tracker.log({"loss": 1.0}, start + 1)
    folder.unlink()
    (tmp_path / "old").rename(folder)
    tracker.log({"loss": 1.0}, start + 2)
    tracker.finish("finished")
    steps = [json.loads(line)["step"] for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert steps == [*range(start + 1 if start else 0), start + 1, start + 2]
