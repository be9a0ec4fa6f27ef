"""Checkpoints for people.

    python -m verl.checkpoint list RUN                    which there are, and whether they are whole
    python -m verl.checkpoint verify CHECKPOINT           exit status 1, and why, if it is not whole
    python -m verl.checkpoint export CHECKPOINT TARGET    a Hugging Face folder, adapters merged

RUN is a run folder (trainer.default_local_dir), CHECKPOINT a global_step_N folder in it.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

from verl.checkpoint import CheckpointError, checkpoints, step_of, verify
from verl.checkpoint.folders import PARTIAL, SET_ASIDE
from verl.config import ConfigError
from verl.trainer.memory import human


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit status: 1 when something is not whole or cannot be done."""
    parser = argparse.ArgumentParser(
        prog="python -m verl.checkpoint", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    command = commands.add_parser("list", help="checkpoints of a run: step, size, date, whole or why not")
    command.add_argument("run", type=Path)
    command.add_argument("--quick", action="store_true", help="compare names and sizes only, read nothing")
    command = commands.add_parser("verify", help="compare all files with the hashes in the manifest")
    command.add_argument("checkpoint", type=Path)
    command = commands.add_parser("export", help="write a folder that from_pretrained loads")
    command.add_argument("checkpoint", type=Path)
    command.add_argument("target", type=Path)
    command.add_argument("--model", help="where the model that training began with is now (default: where it was)")
    options = parser.parse_args(arguments)
    try:
        if options.command == "list":
            return list_run(options.run, is_quick=options.quick)
        if options.command == "verify":
            verify(options.checkpoint)
            print(f"{options.checkpoint} is whole.")
        else:
            export(options.checkpoint, options.target, options.model)
        return 0
    except (CheckpointError, ConfigError, OSError) as error:
        print(error, file=sys.stderr)
        return 1


def list_run(run: Path, is_quick: bool) -> int:
    """Print the checkpoints of a run; the exit status is 1 if one is not whole."""
    folders = checkpoints(run)
    if not folders:
        print(f"{run} has no checkpoints." if run.is_dir() else f"There is no folder {run}.", file=sys.stderr)
        return 1
    print(f"{'step':>6}  {'size':>10}  {'written':<19}  state")
    all_whole = True
    for folder in folders:
        state = "complete by name and size" if is_quick else "whole"
        try:
            verify(folder, with_hashes=not is_quick)
        except CheckpointError as error:
            state, all_whole = str(error).removeprefix(f"{folder} is ").removesuffix("."), False
        size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
        date = datetime.fromtimestamp(folder.stat().st_mtime).isoformat(" ", "seconds")
        print(f"{step_of(folder):>6}  {human(size):>10}  {date}  {state}")
    for path in sorted(run.glob(f"global_step_*{SET_ASIDE}")) + sorted(run.glob(f"global_step_*{PARTIAL}")):
        why = "the run was begun again before it" if path.name.endswith(SET_ASIDE) else "being written, or interrupted"
        print(f"{path.name} does not count: {why}")
    return 0 if all_whole else 1


def export(checkpoint: Path, target: Path, model_path: str | None = None) -> None:
    """Export, and say so. Imports torch and transformers only now."""
    from verl.trainer import export as exporting

    exporting.export(checkpoint, target, model_path)
    print(f"{target} is a Hugging Face model folder.")


if __name__ == "__main__":
    sys.exit(main())
