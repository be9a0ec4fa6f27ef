"""Open the door of `main_ppo` with many command lines, in one process of its own, and see what each imported.

    python tests/malformed/doors.py < lists of arguments as JSON > answers as JSON

A door that lets a command line through says STARTED instead of training. `start` opens it in this process instead, for
what only the beginning of a run can tell.
"""

import contextlib
import dataclasses
import io
import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
ENVIRONMENT = {"TASK": "datasets/none", "EXPERIMENT": "trial", "USER": "ada", "HF_HUB_OFFLINE": "1"}
HEAVY = {"torch", "ray", "vllm", "transformers"}


@dataclass(frozen=True)
class Answer:
    """What a command line got: exit status, standard error, and which heavy modules it imported."""

    status: int
    text: str
    heavy: list[str]


def open_door(door, argv):
    """Status and standard error."""
    text = io.StringIO()
    with contextlib.redirect_stderr(text), contextlib.redirect_stdout(io.StringIO()):
        try:
            status = door.open(argv)
        except SystemExit as end:  # argparse ends the process itself
            status = end.code
    return status, text.getvalue()


def ask(command_lines):
    """The answers to many command lines, from a fresh process."""
    done = subprocess.run(
        [sys.executable, __file__],
        input=json.dumps(command_lines),
        env=os.environ | ENVIRONMENT | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return [Answer(**answer) for answer in json.loads(done.stdout)]


def start(argv, train, door=None):
    """Open a door (of main_ppo, if not said) in this process; returns (status, standard error)."""
    from verl.trainer.main_ppo import DOOR

    return open_door(dataclasses.replace(door or DOOR, train=train), argv)


def arguments(folder, *more):
    """A small run on `folder/train.parquet` and the embedded model."""
    return [
        "--config-name=quickstart",
        f"data.train_files={folder}/train.parquet",
        "data.val_files=null",
        "data.train_batch_size=4",
        f"actor_rollout_ref.model.path={ROOT}/recipes/embedded/model",
        "actor_rollout_ref.rollout.name=hf",
        "trainer.n_gpus_per_node=1",
        "trainer.device=cpu",
        *more,
    ]


def write_rows(path, content):
    """Write a parquet file from rows, a table or bytes."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        pq.write_table(content if isinstance(content, pa.Table) else pa.Table.from_pylist(content), path)


def begin(folder, *more):
    """Status and message of a run's start, up to its first worker, in this process."""
    from verl.trainer.run_data import load_run_data

    return start(arguments(folder, *more), load_run_data)


def check(answer, status, words):
    """Status and words of an answer, which is no traceback."""
    assert answer[0] == status and "Traceback" not in answer[1], answer
    for word in words:
        assert word in answer[1]


def main():
    from verl.trainer.main_ppo import DOOR

    door = dataclasses.replace(DOOR, train=lambda config: print("STARTED", file=sys.stderr))
    answers = []
    for argv in json.load(sys.stdin):
        status, text = open_door(door, argv)
        answers.append({"status": status, "text": text, "heavy": sorted(HEAVY & sys.modules.keys())})
    json.dump(answers, sys.stdout)


if __name__ == "__main__":
    main()
