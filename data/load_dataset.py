"""Write a public data set as a JSON array of questions, the input of the other data tools.

    python data/load_dataset.py --dataset_name openai/gsm8k --output_path datasets/gsm8k.json

It reads the Hugging Face hub or, with `--from_path`, a local file with the set's own columns; `data/sources/` holds one
file per set. Every row is checked before anything is written.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # so that the file runs as a script from anywhere

from data.command import run_command
from data.files import FORMATS, json_array, json_lines, write_together
from data.questions import Questions, take
from data.rows import DataError
from data.sources import SOURCES
from data.sources.base import Source
from data.split_tasks import SEED, split_rows

if TYPE_CHECKING:
    from datasets import Dataset

PathLike = str | Path


def load_dataset_hf(
    dataset_name: str,
    output_path: PathLike | None,
    start_idx: int = 0,
    num_el: int | None = None,
    category: str | None = None,
    embeddings_file: PathLike | None = None,
    **more: Any,
) -> Dataset:
    """`load_questions` with the same arguments, for callers that want a `datasets.Dataset`."""
    rows = load_questions(dataset_name, output_path, start_idx, num_el, category, embeddings_file, **more)
    import datasets  # slow to import, and the command does not need it for local files

    return datasets.Dataset.from_list(rows)


def load_questions(
    dataset_name: str,
    output_path: PathLike | None,
    start_idx: int = 0,
    num_el: int | None = None,
    category: str | None = None,
    embeddings_file: PathLike | None = None,
    *,
    from_path: PathLike | None = None,
    test_ratio: float = 0.0,
    seed: int = SEED,
) -> list[dict[str, Any]]:
    """Load a set, and write it as JSON unless `output_path` is None.

    Args:
        dataset_name: one of `data.sources.SOURCES`.
        output_path: of the JSON array; its folder is made.
        start_idx: questions to skip at the start; `idx` counts them too, so a part keeps the numbers of the whole.
        num_el: questions to take after that; None takes all.
        category: value of the set's category column; None and `false` take all.
        embeddings_file: .npy with one row for each question that is taken.
        from_path: local file with the set's own columns, instead of the hub.
        test_ratio: above 0, `train.json` and `test.json` are written beside the output, as `split_tasks` does.
        seed: of that split.

    Raises:
        DataError: unknown set, malformed row, no question left, hub not to be reached; nothing is written then.
    """
    questions = Questions(_source(dataset_name), from_path, None if category == "false" else category)
    rows = take(questions, start_idx, num_el, embeddings_file)
    for reason, number in questions.left_out.items():
        print(f"left out {number} rows: {reason}")
    if output_path is not None:
        _write(rows, Path(output_path), test_ratio, seed)
    return rows


def _source(dataset_name: str) -> Source:
    if problem := SOURCES.problem(dataset_name):
        raise DataError(problem)
    return SOURCES.load(dataset_name)


def _write(rows: list[dict[str, Any]], output: Path, test_ratio: float, seed: int) -> None:
    parts: dict[Path, list[dict[str, Any]]] = {}
    if test_ratio:
        train, test = split_rows(rows, test_ratio, seed)
        parts = {output.with_name("train.json"): train, output.with_name("test.json"): test}
    if output in parts:
        raise DataError(f"--output_path {output}: with --test_ratio, {output.name} is the name of a part.")
    write_together({output: json_array(rows)} | {file: json_lines(part) for file, part in parts.items()})
    for file, written in ({output: rows} | parts).items():
        print(f"{file}: {len(written)} questions")


def _command(options: argparse.Namespace) -> None:
    place = _source(options.dataset_name).hub
    if isinstance(place, str) and options.from_path is None:
        print(place)  # not a mistake: there is nothing to load
        return
    load_questions(**vars(options))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "load_dataset", description="Write a public data set as a JSON array of questions."
    )
    add = parser.add_argument
    add("--dataset_name", required=True, metavar="NAME", help=f"one of: {', '.join(SOURCES.names)}")
    add("--output_path", required=True, type=Path, metavar="FILE", help="JSON file to write")
    add("--from_path", type=Path, metavar="FILE", help=f"read this file of the set's own columns ({FORMATS})")
    add("--start_idx", type=int, default=0, metavar="N", help="questions to skip at the start (%(default)s)")
    add("--num_el", type=int, metavar="N", help="questions to take after that (all)")
    add("--category", metavar="VALUE", help="only questions of this category of the set (false: all)")
    add("--embeddings_file", type=Path, metavar="FILE", help=".npy file with one row for each question taken")
    add("--test_ratio", type=float, default=0.0, metavar="R", help="above 0: write train.json and test.json too")
    add("--seed", type=int, default=SEED, metavar="N", help="of that split (%(default)s)")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """The command. Returns its exit status."""
    return run_command(_parser(), _command, arguments)


if __name__ == "__main__":
    sys.exit(main())
