"""Write the task's train.parquet and test.parquet, in the schema of the RL trainer.

python recipes/embedded/make_data.py --output_dir datasets/home_api --feedback weak
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # so that the file runs as a script from anywhere

from recipes.embedded.task import Feedback, rl_rows

CHAT = pa.large_list(pa.struct([("content", pa.large_string()), ("role", pa.large_string())]))
SCHEMA = pa.schema(
    [
        ("prompt", CHAT),
        ("data_source", pa.large_string()),
        ("ability", pa.large_string()),
        ("reward_model", pa.struct([("style", pa.large_string()), ("ground_truth", pa.large_string())])),
        (
            "extra_info",
            pa.struct([("split", pa.large_string()), ("index", pa.large_string()), ("problem", pa.large_string())]),
        ),
    ]
)


def write_rows(rows: list[dict[str, Any]], schema: pa.Schema, path: Path) -> None:
    """Write rows to one parquet file, making its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), path, compression="zstd")


def make_data(output_dir: Path, feedback: Feedback) -> None:
    """Write both splits."""
    for split in ("train", "test"):
        rows = rl_rows(split, feedback)
        path = output_dir / f"{split}.parquet"
        write_rows(rows, SCHEMA, path)
        print(f"{path}: {len(rows)} prompts, {feedback} feedback")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output_dir", type=Path, default=Path("datasets/home_api"))
    parser.add_argument(
        "--feedback", choices=["weak", "strong"], default="weak", help="whether errors name the right word"
    )
    arguments = parser.parse_args()
    make_data(arguments.output_dir, arguments.feedback)
