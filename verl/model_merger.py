"""verl's name for `python -m verl.checkpoint export`.

python -m verl.model_merger merge --backend fsdp --local_dir RUN/global_step_N/actor --target_dir TARGET
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from verl.checkpoint.__main__ import main as checkpoint_main


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit status of the export."""
    parser = argparse.ArgumentParser(
        prog="python -m verl.model_merger", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("operation", choices=["merge"])
    parser.add_argument("--backend", choices=["fsdp"], default="fsdp", help="how the shards were written")
    parser.add_argument("--local_dir", required=True, help="the actor folder of a checkpoint")
    parser.add_argument("--target_dir", required=True, help="the folder to write; must not exist")
    options = parser.parse_args(arguments)
    return checkpoint_main(["export", options.local_dir, options.target_dir])


if __name__ == "__main__":
    sys.exit(main())
