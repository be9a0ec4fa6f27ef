"""A small run of its own: 10 prompts, the embedded model, the hf engine, and a scorer that everybody can earn from."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from verl.config import PPOConfig
from verl.trainer.compose import compose

ROOT = Path(__file__).resolve().parents[2]
MODEL = ROOT / "recipes/embedded/model"
SCORER = """
def compute_score(data_source, solution_str, ground_truth, extra_info=None):
    return {"score": float("kitchen" in solution_str), "feedback": "" if "kitchen" in solution_str else "no kitchen"}
"""


def compose_run(folder: Path, *overrides: str) -> PPOConfig:
    """Write data and scorer to `folder`, and compose the configuration: 4 prompts x 3 responses a step, one rank."""
    row = {"data_source": "own", "reward_model": {"ground_truth": ""}}
    rows = [row | {"prompt": [{"role": "user", "content": f"light {i}"}]} for i in range(10)]
    pq.write_table(pa.Table.from_pylist(rows), folder / "train.parquet")
    (folder / "scorer.py").write_text(SCORER)
    settings = [
        "--config-name=quickstart",
        f"vars.model={MODEL}",
        f"data.train_files={folder}/train.parquet",
        "data.val_files=null",
        "data.train_batch_size=4",
        f"custom_reward_function.path={folder}/scorer.py",
        "actor_rollout_ref.rollout.name=hf",
        "actor_rollout_ref.rollout.n=3",
        "trainer.total_training_steps=5",
        "trainer.n_gpus_per_node=1",
        "trainer.device=cpu",
        f"trainer.default_local_dir={folder}/run",
    ]
    (composed,) = compose(PPOConfig, "ppo_trainer", [*settings, *overrides], lambda config: [])
    return composed.config
