"""Updates in which something is not finite, each between two healthy ones; run on one rank or on two.

The second healthy update is the proof that the spoilt one left no trace: moments, schedule and weights.
"""

from dataclasses import replace
from math import inf, nan
from pathlib import Path

import torch
from training_case import SCORED, TAUGHT, make_actor, make_config, part, teacher_of, weights_of

from verl.protocol import Row
from verl.single_controller import RankInfo
from verl.workers.actor import ActorWorker

GRPO = [replace(row, teacher_prompt_ids=taught.teacher_prompt_ids) for row, taught in zip(SCORED, TAUGHT, strict=True)]
PLACE = 2
"""The row that is spoilt, in its first token; with two ranks only one of them sees it."""


def spoil(name: str, value: float, token: int = 0) -> list[Row]:
    """Rows that all have `name`, finite but for one."""
    found = []
    for row in GRPO:
        values = list(getattr(row, name) or [-1.0] * len(row.response_ids))
        if row.index == PLACE:
            values[token] = value
        found.append(replace(row, **{name: values}))
    return found


SPOILT = {
    # name: (rows, what is reported of the row)
    "nan advantage": (spoil("advantages", nan), "advantages"),
    "inf advantage": (spoil("advantages", inf), "advantages"),
    "engine's log-prob -inf": (spoil("rollout_log_probs", -inf), "rollout_log_probs"),
    "old log-prob nan": (spoil("old_log_probs", nan), "old_log_probs"),
    "gradient overflows": (spoil("advantages", 3e38), None),
}
SHARED = ["old log-prob nan", "gradient overflows"]
"""Cases that are run in another way too."""
HARMLESS = spoil("rollout_log_probs", nan, token=2)
"""nan at a token that the policy did not write."""


SHARING = {"fsdp_size": 1, "actor": {"ulysses_sequence_parallel_size": 2}}
"""Two ranks that run forwards together and hold a copy of the weights each."""


def grpo_actor(folder: Path, info: RankInfo | None, sharing: dict | None = None) -> ActorWorker:
    config = make_config(str(folder / "tied"), grpo_lambda=0.5, teacher_update_rate=0.3, **(sharing or {}))
    return make_actor(config, info)


def state_of(worker: ActorWorker) -> dict:
    learner = worker.learner
    moments = [s[name] for s in learner.optimizer.state.values() for name in ("step", "exp_avg", "exp_avg_sq")]
    local = [m.to_local() if hasattr(m, "to_local") else m for m in moments]
    return {
        "weights": weights_of(worker),
        "teacher": teacher_of(worker),
        "moments": [m.clone() for m in local],
        "num_steps": learner.num_steps,
    }


def run_spoilt(name: str, folder: Path, info: RankInfo | None = None, sharing: dict | None = None) -> dict:
    """The states around the spoilt update, what it reported, and the weights after the next healthy one."""
    worker = grpo_actor(folder, info, sharing)
    worker.update_policy([part(GRPO, worker, 1)])
    before = state_of(worker)
    metrics = worker.update_policy([part(SPOILT[name][0], worker, 1)])
    results = worker.update_results()
    after = state_of(worker)
    worker.update_policy([part(GRPO, worker, 1)])
    return {"before": before, "after": after, "metrics": metrics, "results": results, "next": weights_of(worker)}


def run_healthy(folder: Path, info: RankInfo | None = None) -> dict:
    """Weights after two healthy updates, of which the second has nan where it does not count."""
    worker = grpo_actor(folder, info)
    for rows in (GRPO, HARMLESS):
        worker.update_policy([part(rows, worker, 1)])
    return {"next": weights_of(worker), "results": worker.update_results()}


def run_poisoned_weights(of: str, folder: Path, info: RankInfo | None = None, sharing: dict | None = None) -> dict:
    """A weight of the student, or of the teacher, is inf."""
    worker = grpo_actor(folder, info, sharing)
    model = worker.model if of == "student" else worker.learner.teacher.model
    with torch.no_grad():
        weight = model.lm.get_decoder().norm.weight
        (weight.to_local() if hasattr(weight, "to_local") else weight)[:1] = inf
    before = state_of(worker)
    worker.update_policy([part(GRPO, worker, 1)] * 2)
    return {"before": before, "after": state_of(worker), "results": worker.update_results()}
