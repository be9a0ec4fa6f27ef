"""What a person sees."""

import io

from rich.console import Console

from verl.tracking.base import RunInfo
from verl.tracking.console import ConsoleTracker, clock, step_line

STEP = {
    "critic/score/mean": 0.41234,
    "actor/pg_loss": 0.02131,
    "actor/grad_norm": 1.2e-5,
    "response_length/mean": 12.7,
    "timing_s/gen": 1.24,
    "timing_s/adv": 0.01,
    "timing_s/update_actor": 0.7,
    "timing_s/step": 2.05,
    "val-core/home_api/acc/mean@8": 0.7634,
    "val-core/home_api/acc/best@8/mean": 0.9,
    "perf/throughput": 123.0,
}


def plain(width=40):
    return Console(file=io.StringIO(), width=width, force_terminal=False)


def test_a_step_is_one_line_with_the_numbers_that_matter():
    line = step_line(STEP, 7, 120).plain
    assert line == (
        "step   7/120  score 0.412  loss 0.02131  grad 1.2e-05  length 13     val mean@8 0.763"
        "  2.0 s (gen 1.2, update_actor 0.7)"
    )


def test_staleness_is_shown_when_there_is_some():
    assert "stale" not in step_line(STEP | {"training/rollout_staleness": 0.0}, 1, 3).plain
    assert step_line({"training/rollout_staleness": 1.0}, 2, 3).plain == "step 2/3  stale 1"


def test_missing_numbers_are_left_out():
    assert step_line({"val-core/a/acc/mean@4": 0.25, "val-core/b/acc/mean@4": 0.5}, 0, None).plain == (
        "step 0  val a mean@4 0.250  val b mean@4 0.500"
    )


def test_without_a_terminal_lines_are_plain_and_not_wrapped():
    console = plain()
    tracker = ConsoleTracker(RunInfo("p", "e", __import__("pathlib").Path(), total_steps=3), console)
    tracker.start_from(0)
    for step in range(1, 4):
        tracker.log(STEP, step)
    tracker.finish("finished")
    lines = console.file.getvalue().splitlines()
    assert len(lines) == 3 and not any("\x1b" in line for line in lines)
    assert "left 0:00" in lines[1] and "left" not in lines[0] + lines[2]


def test_standard_output_is_used(capsys, tmp_path):
    tracker = ConsoleTracker(RunInfo("p", "e", tmp_path, total_steps=9))
    tracker.start_from(4)
    tracker.log(STEP, 5)
    out = capsys.readouterr().out
    assert out.startswith("resumed at step 4\nstep 5/9  score 0.412")


def test_a_terminal_gets_a_progress_bar(tmp_path):
    console = Console(file=io.StringIO(), width=100, force_terminal=True)
    tracker = ConsoleTracker(RunInfo("p", "my-run", tmp_path, total_steps=9), console)
    tracker.start_from(2)
    tracker.log(STEP, 3)
    tracker._progress.refresh()
    tracker.finish("finished")
    out = console.file.getvalue()
    assert "my-run" in out and "3/9" in out and "score" in out


def test_clock():
    assert [clock(s) for s in (0.4, 61, 3661)] == ["0:00", "1:01", "1:01:01"]
