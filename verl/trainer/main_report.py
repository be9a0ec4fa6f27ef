"""What did a run do, and how do runs compare?

    python -m verl.trainer.main_report RUN_DIR
    python -m verl.trainer.main_report --compare RUN_DIR RUN_DIR ... [--output curves.png]

The first prints held-out accuracy before and after. The second groups runs by method (SDPO, GRPO, ... from their
configuration; `LABEL=RUN_DIR` sets another), draws learning curves and prints a markdown table.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.text import Text

from verl.trainer.compare import common_metric, comparisons, differences, group_runs, markdown_table, method_label
from verl.trainer.report import ReportError, Run, read_run, report_table, sentence


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit status: 2 when a folder cannot be read."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "run_dirs", nargs="+", metavar="RUN_DIR", help="folder of a run, or LABEL=folder with --compare"
    )
    parser.add_argument("--compare", action="store_true", help="draw learning curves and print a table of all runs")
    parser.add_argument(
        "--output", type=Path, default=Path("learning_curves.png"), help="picture (default: %(default)s)"
    )
    parser.add_argument("--metric", help="val-core/.../acc/mean@N to compare (default: the first that all runs have)")
    options = parser.parse_args(arguments)
    try:
        if options.compare:
            compare([_labelled(text) for text in options.run_dirs], options.metric, options.output)
        else:
            for folder in options.run_dirs:
                run = read_run(folder)
                console = Console(highlight=False)
                console.print(report_table(run))
                console.print(Text(f"{sentence(run)}\nrun folder: {folder}"), soft_wrap=True)
    except ReportError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


def compare(labelled: Sequence[tuple[str, Run]], metric: str | None, output: Path) -> None:
    """Draw and print the comparison. Raises ReportError when the runs share no validation metric."""
    metric = metric or common_metric([run for _, run in labelled])
    if missing := [str(run.folder) for _, run in labelled if metric not in run.headlines]:
        raise ReportError(f"--metric {metric} was not logged by {', '.join(missing)}.")
    methods = group_runs(labelled, metric)
    print(f"{metric}, mean over seeds [smallest-largest]\n\n{markdown_table(methods)}\n")
    for gain in comparisons(methods):
        print(gain)
    for method in methods:
        if keys := differences(method):
            print(f"Note: the {method.label} runs are not only seeds of each other, they differ in {', '.join(keys)}.")
    try:
        from verl.trainer.plot import draw_curves
    except ImportError as error:
        raise ReportError(f"No picture: {error}. Install matplotlib (pip install 'sdpo-verl[plot]').") from error
    print(f"Learning curves: {draw_curves(methods, metric, output)}")


def _labelled(text: str) -> tuple[str, Run]:
    label, _, folder = text.rpartition("=")
    run = read_run(folder if label and not Path(text).exists() else text)
    return (label if label and not Path(text).exists() else method_label(run)), run


if __name__ == "__main__":
    sys.exit(main())
