"""Launchers that really submit or run: missing data, no Slurm, refused jobs, sweeps on this machine."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SDPO_ALL = "generalization/run_sdpo_all.sh"


def make_data(folder):
    folder.mkdir(parents=True)
    for name in ("train.parquet", "test.parquet"):
        (folder / name).touch()


def make_all(tmp_path):
    for name in ("biology", "chemistry", "material", "physics"):
        make_data(tmp_path / "data" / "sciknoweval" / name)
    make_data(tmp_path / "data" / "tooluse")


def test_nothing_is_submitted_when_data_are_missing(launch, program, tmp_path):
    trace = tmp_path / "trace"
    programs = program("sbatch", f"touch {trace}")
    make_data(tmp_path / "data" / "sciknoweval" / "biology")
    process = launch(SDPO_ALL, PATH=f"{programs}:{os.environ['PATH']}")
    assert process.returncode == 2 and not trace.exists()
    assert "sciknoweval/biology " not in process.stderr and "data/split_tasks.py" in process.stderr


def test_the_printed_commands_make_the_data(launch, tmp_path):
    """The lines for one set, with its rows from a file instead of the hub."""
    row = {
        "question": "Which is acidic?",
        "choices": {"text": ["HCl", "NaOH"], "label": ["A", "B"]},
        "answer": "",
        "answerKey": "A",
        "type": "mcq-2-choices",
        "domain": "Chemistry",
        "details": {"level": "L3", "task": "t", "subtask": "s", "source": "x"},
        "prompt": {"default": "Select the right answer."},
    }
    own = tmp_path / "own.json"
    own.write_text(json.dumps([row | {"question": f"Which of {n} is acidic?"} for n in range(10)]))
    lines = launch(SDPO_ALL, "--dry-run").stderr.splitlines()
    load, split, preprocess = [line for line in lines if "chemistry" in line and line.startswith("python ")]
    python = f"{sys.executable} "
    script = "\n".join(line.replace("python ", python, 1) for line in (f"{load} --from_path {own}", split, preprocess))
    done = subprocess.run(["bash", "-e"], input=script, text=True, cwd=ROOT, capture_output=True)
    assert done.returncode == 0, done.stderr
    folder = tmp_path / "data" / "sciknoweval" / "chemistry"
    assert (folder / "train.parquet").stat().st_size and (folder / "test.parquet").stat().st_size


def test_without_slurm_a_submission_says_what_to_do(launch, few_programs, tmp_path):
    make_all(tmp_path)
    process = launch(SDPO_ALL, PATH=str(few_programs))
    assert process.returncode == 2 and "sbatch is not on the PATH" in process.stderr


def test_a_refused_job_ends_the_sweep(launch, program, tmp_path):
    make_all(tmp_path)
    programs = program("sbatch", f"echo >>{tmp_path}/calls; (($(wc -l <{tmp_path}/calls) < 3))")
    process = launch(SDPO_ALL, PATH=f"{programs}:{os.environ['PATH']}")
    assert process.returncode == 2 and "2 of 10 were submitted before it" in process.stderr


@pytest.mark.parametrize(("status", "runs", "end"), [(0, 10, 0), (3, 10, 1), (130, 1, 130)])
def test_a_sweep_on_this_machine(launch, program, tmp_path, status, runs, end):
    """One after another; a failed run does not end it, an interrupted one does."""
    make_all(tmp_path)
    programs = program("spy", f"echo >>{tmp_path}/calls; exit {status}")
    process = launch(SDPO_ALL, "--local", PATH=f"{programs}:{os.environ['PATH']}", PYTHON="spy")
    assert process.returncode == end
    assert len((tmp_path / "calls").read_text().splitlines()) == runs
    assert process.stderr.count("(exit status 3)") == (10 if status == 3 else 0)
