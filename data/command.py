"""What the data tools have in common as commands: a mistake in the data is a message and status 1, not a traceback."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence

from data.rows import DataError


def run_command(
    parser: argparse.ArgumentParser, command: Callable[[argparse.Namespace], None], arguments: Sequence[str] | None
) -> int:
    """Parse the arguments and run the command. Returns the exit status."""
    options = parser.parse_args(arguments)
    try:
        command(options)
    except DataError as error:
        print(f"{parser.prog}: {error}\nNothing was written.", file=sys.stderr)
        return 1
    except OSError as error:
        print(f"{parser.prog}: cannot write: {error}", file=sys.stderr)
        return 1
    return 0
