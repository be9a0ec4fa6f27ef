"""Which trackers run, and that none of them can end a run."""

import json

import pytest

from verl.registry import TRACKERS
from verl.tracking import Tracking
from verl.tracking.base import RunInfo


class BrokenLog:
    """Works until the first step."""

    calls = 0

    def __init__(self, run: RunInfo) -> None:
        self.run = run

    def start_from(self, step: int) -> None:
        pass

    def log(self, metrics: dict, step: int) -> None:
        type(self).calls += 1
        raise ConnectionError("no route to host")

    def finish(self, status: str) -> None:
        raise AssertionError("a dropped tracker is not called again")


class BrokenStart(BrokenLog):
    def __init__(self, run: RunInfo) -> None:
        raise TimeoutError("no answer")


@pytest.fixture
def broken(monkeypatch):
    rows = {"broken": f"{__name__}:BrokenLog", "dead": f"{__name__}:BrokenStart", "absent": "no_such_package:Tracker"}
    monkeypatch.setattr(TRACKERS, "_rows", TRACKERS._rows | rows)


def test_metrics_file_is_written_without_being_asked_for(tmp_path):
    tracking = Tracking("p", "e", [], folder=tmp_path)
    tracking.log({"a": 1}, step=0)
    tracking.finish()
    assert json.loads((tmp_path / "metrics.jsonl").read_text()) == {"step": 0, "a": 1.0}


def test_a_failing_tracker_is_reported_once_and_dropped(tmp_path, broken, caplog):
    BrokenLog.calls = 0
    tracking = Tracking("p", "e", ["broken", "dead"], folder=tmp_path)
    for step in range(3):
        tracking.log({"a": step}, step)
    tracking.finish("failed")
    assert BrokenLog.calls == 1
    assert [record.levelname for record in caplog.records] == ["WARNING", "WARNING"]
    assert "no answer" in caplog.text and "no route to host" in caplog.text
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 3


def test_a_missing_package_is_an_error_before_the_run(tmp_path, broken):
    with pytest.raises(ValueError, match=r"logger=absent.*not installed.*no_such_package.*trainer\.logger"):
        Tracking("p", "e", "absent", folder=tmp_path)


def test_an_unknown_tracker_is_an_error_with_a_hint(tmp_path):
    with pytest.raises(ValueError, match="Did you mean 'wandb'"):
        Tracking("p", "e", ["wanbd"], folder=tmp_path)


def test_default_folder_is_named_by_project_and_experiment(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Tracking("proj", "exp", "file").log({"a": 1}, 1)
    assert (tmp_path / "checkpoints" / "proj" / "exp" / "metrics.jsonl").exists()
