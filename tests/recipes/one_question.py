"""A question of its own for tests: a folder with a train row and a test row, and a scorer that tells them apart."""

import json

from recipes.embedded.make_data import SCHEMA, write_rows

SCORER = """
import os, signal

def compute_score(data_source, solution_str, ground_truth, extra_info=None):
    right = {right}
    {more}
    return {{"score": float(right), "feedback": "" if right else f"{{ground_truth}} put."}}
"""


def write_question(folder, right="False", more="", prompt="oven in the attic to 2"):
    """`right`: an expression of `solution_str` and `ground_truth`, which is `public` or `hidden`."""
    for split, truth, copies in (("train", "public", 4), ("test", "hidden", 1)):
        row = {
            "prompt": [{"role": "user", "content": prompt}],
            "data_source": "own",
            "ability": "tool_use",
            "reward_model": {"style": "rule", "ground_truth": truth},
            "extra_info": {"split": split, "index": "0", "problem": prompt},
        }
        write_rows([row] * copies, SCHEMA, folder / f"{split}.parquet")
    (folder / "scorer.py").write_text(SCORER.format(right=right, more=more))
    return folder


def lines(path):
    """Header and attempts of a log."""
    header, *attempts = [json.loads(line) for line in path.read_text().splitlines()]
    return header, attempts


def without_times(attempts):
    return [{k: v for k, v in attempt.items() if k not in ("timestamp", "duration_sec")} for attempt in attempts]
