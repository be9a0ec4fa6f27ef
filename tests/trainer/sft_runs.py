"""Supervised runs of one rank in this process: whole runs of about a second, on the embedded model."""

import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from verl.config import SFTConfig
from verl.config.checks import sft_problems
from verl.config.files import sft_missing_files
from verl.trainer.compose import compose
from verl.trainer.sft_trainer import train

ROOT = Path(__file__).resolve().parents[2]
MODEL = ROOT / "recipes/embedded/model"


def write_data(path, num_rows=6, word="light"):
    rows = [{"prompt": f"{word} {i}", "response": f"kitchen {i}"} for i in range(num_rows)]
    pq.write_table(pa.Table.from_pylist(rows), path)


class Runs:
    """`runs(steps, *overrides)`: train in `<folder>/run`, or another run folder, saving every step."""

    def __init__(self, folder):
        self.folder = folder
        write_data(folder / "train.parquet")

    def arguments(self, steps, *overrides, folder):
        return [
            f"model.path={MODEL}",
            f"data.train_files={self.folder}/train.parquet",
            "data.train_batch_size=2",
            f"trainer.total_training_steps={steps}",
            "trainer.save_freq=1",
            f"trainer.default_local_dir={folder}",
            "trainer.n_gpus_per_node=1",
            "trainer.device=cpu",
            "trainer.logger=[file]",
            *overrides,
        ]

    def config(self, steps, *overrides, folder):
        arguments = self.arguments(steps, *overrides, folder=folder)
        (composed,) = compose(SFTConfig, "sft_trainer", arguments, lambda c: sft_problems(c) + sft_missing_files(c))
        return composed.config

    def __call__(self, steps, *overrides, folder=None):
        folder = folder or self.folder / "run"
        train(self.config(steps, *overrides, folder=folder))
        return folder

    def command(self, steps, *overrides, folder):
        return [sys.executable, "-m", "verl.trainer.main_sft", *self.arguments(steps, *overrides, folder=folder)]
