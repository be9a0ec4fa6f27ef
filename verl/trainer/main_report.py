"""What did a run do, and how do runs compare?

    python -m verl.trainer.main_report RUN_DIR
    python -m verl.trainer.main_report --compare RUN_DIR RUN_DIR ... [--output curves.png]
    python -m verl.trainer.main_report --hours 1,5 RUN_DIR RUN_DIR ... [--output hours.png]
    python -m verl.trainer.main_report --discovery FILE_OR_RUN_DIR ... [--output discovery.png]

The first prints held-out accuracy before and after. The second groups runs by method (SDPO, GRPO, ... from their
configuration; `LABEL=RUN_DIR` sets another), draws learning curves and prints a markdown table. The third prints the
best accuracy within so many hours of training, and final and best, by method, model and data set. The last reads logs
of attempts (test-time training, multi-turn, best-of-k) and gives discovery@k. The tables are written beside the picture
too, as .md.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from rich.console import Console
from rich.text import Text

from verl.trainer.compare import common_metric, comparisons, differences, group_runs, markdown_table, method_label
from verl.trainer.report import ReportError, Run, read_run, report_table, sentence
from verl.types import InputError


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit status: 2 when a folder or file cannot be read."""
    options = _parse(arguments)
    try:
        if options.compare:
            compare(options.paths, options.metric, options.output or Path("learning_curves.png"))
        elif options.hours:
            hours(options.paths, options.hours, options.metric, options.output or Path("training_hours.png"))
        elif options.discovery:
            discovery(options.paths, options.interval == "questions", options.output or Path("discovery.png"))
        else:
            for folder in options.paths:
                show(folder)
    except (ReportError, InputError) as error:
        print(error, file=sys.stderr)
        return 2
    return 0


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("paths", nargs="+", metavar="RUN_DIR", help="folder of a run, or LABEL=folder to compare")
    kind = parser.add_mutually_exclusive_group()
    kind.add_argument("--compare", action="store_true", help="draw learning curves and print a table of all runs")
    kind.add_argument("--hours", type=_numbers, metavar="H,H", help="best within H hours of training, as tables")
    kind.add_argument("--discovery", action="store_true", help="discovery@k from logs of attempts")
    parser.add_argument("--output", type=Path, help="picture; the tables are written beside it")
    parser.add_argument("--metric", help="val-core/.../acc/mean@N to compare (default: the first that all runs have)")
    parser.add_argument(
        "--interval",
        choices=["questions", "seeds"],
        default="questions",
        help="what discovery@k's bootstrap draws: questions and their seeds, or seeds alone (default: %(default)s)",
    )
    return parser.parse_args(arguments)


def _numbers(text: str) -> list[float]:
    """`1,5` as positive numbers."""
    try:
        numbers = [float(part) for part in text.split(",")]
    except ValueError:
        numbers = []
    if not numbers or not all(0 < number < math.inf for number in numbers):
        raise argparse.ArgumentTypeError(f"{text!r} is not a list of hours; give positive numbers, as in 1,5")
    return numbers


def show(folder: str) -> None:
    """One run, before and after."""
    run = read_run(folder)
    console = Console(highlight=False)
    console.print(report_table(run))
    console.print(Text(f"{sentence(run)}\nrun folder: {folder}"), soft_wrap=True)


def compare(paths: Sequence[str], metric: str | None, output: Path) -> None:
    """Draw and print the comparison. Raises ReportError when the runs share no validation metric."""
    labelled = _labelled_runs(paths)
    metric = metric or common_metric([run for _, run in labelled])
    if missing := [str(run.folder) for _, run in labelled if metric not in run.headlines]:
        raise ReportError(f"--metric {metric} was not logged by {', '.join(missing)}.")
    methods = group_runs(labelled, metric)
    lines = [f"{metric}, mean over seeds [smallest-largest]\n\n{markdown_table(methods)}\n"]
    lines += [str(gain) for gain in comparisons(methods)]
    for method in methods:
        if keys := differences(method):
            lines.append(
                f"Note: the {method.label} runs are not only seeds of each other, they differ in {', '.join(keys)}."
            )

    def draw() -> Path:
        from verl.trainer.plot import draw_curves

        return draw_curves(methods, metric, output)

    _publish("\n".join(lines), "Learning curves", draw, output)


def hours(paths: Sequence[str], limits: Sequence[float], metric: str | None, output: Path) -> None:
    """The paper's tables, and accuracy over hours of training."""
    from verl.trainer.training_hours import NOTES, group_panels, hours_tables

    panels = group_panels(_labelled_runs(paths), metric)

    def draw() -> Path:
        from verl.trainer.hours_plot import draw_hours

        return draw_hours(panels, limits, output)

    _publish(f"{hours_tables(panels, limits)}\n\n{NOTES}", "Accuracy over hours", draw, output)


def discovery(paths: Sequence[str], resample_questions: bool, output: Path) -> None:
    """discovery@k of all methods, as a table and as curves."""
    from verl.evaluation.attempts import read_attempts
    from verl.evaluation.discovery import discover_all
    from verl.trainer.discovery_report import discovery_notes, discovery_table, group_logs

    logs = [(label, read_attempts(path)) for label, path in map(_split_label, paths)]
    methods = discover_all(group_logs(logs), resample_questions)
    notes = "\n".join(discovery_notes(methods, resample_questions))

    def draw() -> Path:
        from verl.trainer.discovery_plot import draw_discovery

        return draw_discovery(methods, output)

    _publish(f"{discovery_table(methods)}\n\n{notes}", "discovery@k", draw, output)


def _publish(text: str, what: str, draw: Callable[[], Path], output: Path) -> None:
    """Print the tables, write them beside the picture, and draw it. Raises ReportError without matplotlib."""
    print(text)
    output.parent.mkdir(parents=True, exist_ok=True)
    output.with_suffix(".md").write_text(text + "\n", encoding="utf-8")
    try:
        path = draw()
    except ImportError as error:
        raise ReportError(f"No picture: {error}. Install matplotlib (pip install 'sdpo-verl[plot]').") from error
    print(f"{what}: {path}")


def _labelled_runs(paths: Sequence[str]) -> list[tuple[str, Run]]:
    runs = [(label, read_run(folder)) for label, folder in map(_split_label, paths)]
    return [(label or method_label(run), run) for label, run in runs]


def _split_label(text: str) -> tuple[str | None, str]:
    """`LABEL=path`; a path that exists as it is has no label."""
    label, _, path = text.rpartition("=")
    return (label, path) if label and not Path(text).exists() else (None, text)


if __name__ == "__main__":
    sys.exit(main())
