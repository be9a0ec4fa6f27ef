"""A tiny random Qwen3, rows of every kind, and configurations: what the training tests run, on one rank or on two."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from transformers import Qwen3Config, Qwen3ForCausalLM

from verl.config import ActorConfig, ActorRolloutRefConfig, OptimConfig, PolicyLossConfig, RolloutConfig
from verl.config.actor import FSDPConfig, ModelConfig
from verl.config.forwards import ForwardLimits
from verl.config.root import AlgorithmConfig, TrainerConfig
from verl.config.self_distillation import SelfDistillationConfig
from verl.models.full_weights import full_tensor, full_weights
from verl.protocol import MiniBatch, Row, mean_metrics, plan_mini_batch
from verl.single_controller import RankInfo
from verl.single_controller.worker import make_worker
from verl.trainer.assemble import choose_anchors
from verl.workers.actor import ActorWorker

VOCAB = 61
TEMPERATURE = 0.7

TAUGHT = [
    Row([1, 2, 3], [4, 5, 6, 7], [1, 1, 1, 1], teacher_prompt_ids=[9, 8, 7, 6, 5, 4], index=0),
    Row([1, 2, 3], [14, 5], [1, 1], index=1),
    Row([7], [10, 11, 12, 13, 14, 15, 16], [1, 1, 0, 0, 1, 1, 1], teacher_prompt_ids=[3, 30], index=2),
    Row([9, 9, 9, 9, 9], [50, 2], [1, 1], teacher_prompt_ids=[3, 4, 5, 6, 7, 8, 9, 10], index=3),
    Row([20, 21], [22], [1], index=4),
]
SCORED = [
    Row(
        r.prompt_ids,
        r.response_ids,
        r.response_mask,
        advantages=[0.5 - 0.4 * r.index] * len(r.response_ids),
        index=r.index,
    )
    for r in TAUGHT
]
LONE = [TAUGHT[1], TAUGHT[2]]  # one taught row: with two ranks, one of them has nothing to do


def save_tiny(folder: Path, is_tied: bool, seed: int = 0) -> str:
    torch.manual_seed(seed)
    config = Qwen3Config(
        vocab_size=VOCAB,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=8,
        tie_word_embeddings=is_tied,
        initializer_range=0.4,
    )
    Qwen3ForCausalLM(config).save_pretrained(folder)
    return str(folder)


def make_config(
    path: str,
    loss_mode: str = "sdpo",
    model: dict | None = None,
    share_prefixes: bool = True,
    reshards: bool = True,
    fsdp_size: int = -1,
    actor: dict | None = None,
    **options,
) -> ActorRolloutRefConfig:
    """`options` go to self_distillation. The large eps makes AdamW smooth, so that rounding stays rounding."""
    return ActorRolloutRefConfig(
        model=ModelConfig(path=path, **(model or {})),
        actor=ActorConfig(
            policy_loss=PolicyLossConfig(loss_mode=loss_mode),
            optim=OptimConfig(lr=0.3, eps=0.1, weight_decay=0.01, lr_warmup_steps=2, lr_scheduler_type="cosine"),
            self_distillation=SelfDistillationConfig(**options),
            use_kl_loss=loss_mode in ("vanilla", "gspo"),
            fsdp_config=FSDPConfig(compute_dtype="fp32", reshard_after_forward=reshards, fsdp_size=fsdp_size),
            use_prefix_grouper=share_prefixes,
            **(actor or {}),
        ),
        rollout=RolloutConfig(temperature=TEMPERATURE),
    )


def make_actor(
    config: ActorRolloutRefConfig, info: RankInfo | None = None, device: str = "cpu", seed: int = 1
) -> ActorWorker:
    trainer = TrainerConfig(device=device, n_gpus_per_node=1 if info is None else info.world_size, seed=seed)
    worker = make_worker(ActorWorker, info or RankInfo(), config, AlgorithmConfig(), trainer, 4)
    worker.setup()
    return worker


def part(
    rows: list[Row],
    worker: ActorWorker,
    cut: int | ForwardLimits | None = None,
    teacher_cut: ForwardLimits | None = None,
) -> MiniBatch:
    """This rank's part of a mini-batch. `cut`: rows of a micro-batch; the teacher's packs are cut alike by default."""
    limits = cut if isinstance(cut, ForwardLimits) else ForwardLimits(max_rows=cut)
    limits = replace(limits, num_ranks=worker.place.sequence.size)
    algorithm = worker.learner.algorithm
    teacher = (teacher_cut or limits) if algorithm.needs_teacher else None
    anchored = choose_anchors(rows, algorithm.anchored_fraction, "")
    size, keep_untaught = worker.place.world_size, algorithm.needs_untaught_rows
    plan = plan_mini_batch(rows, size, limits, teacher, keep_untaught=keep_untaught, anchored=anchored)
    return plan[worker.place.rank]


def weights_of(worker: ActorWorker) -> dict[str, torch.Tensor]:
    found = full_weights(worker.model, worker.config.model, worker.place.device, torch.float32)
    return {name: value.cpu().clone() for name, value in found}


def teacher_of(worker: ActorWorker) -> dict[str, torch.Tensor]:
    weights = worker._ref.state_dict()["weights"]
    return {name.removeprefix("lm."): full_tensor(v, worker.place.device).cpu().clone() for name, v in weights.items()}


def train(
    worker: ActorWorker,
    rows: list[Row],
    cut: int | ForwardLimits | None,
    teacher_cut: ForwardLimits | None = None,
    num_updates: int = 2,
) -> dict:
    """So many updates of two mini-batches each; everything that a test may want to compare."""
    metrics = {}
    for _ in range(num_updates):
        batches = [part(mini_batch, worker, cut, teacher_cut) for mini_batch in (rows[:3], rows[3:])]
        metrics = worker.update_policy(batches)
    return {"weights": weights_of(worker), "teacher": teacher_of(worker), "metrics": mean_metrics(metrics)}


def with_reference(worker: ActorWorker, rows: list[Row]) -> list[Row]:
    """Rows with the reference's log-probs."""
    found = of_all_ranks(worker, lambda mine: worker.compute_log_probs(mine, "ref"), rows)
    return [replace(row, ref_log_probs=found[row.index]) for row in rows]


ANCHOR = {"teacher_anchor_coef": 2.0, "teacher_anchor_fraction": 0.5}


def of_all_ranks(worker: ActorWorker, method: Callable[[MiniBatch], dict], rows: list[Row]) -> dict:
    """What all ranks give back by row, as the driver puts it together."""
    limits = ForwardLimits(2, num_ranks=worker.place.sequence.size)
    mine = plan_mini_batch(rows, worker.place.world_size, limits, limits)[worker.place.rank]
    found = [{}] * worker.place.world_size
    torch.distributed.all_gather_object(found, method(mine))
    assert sum(map(len, found)) == len({index for part in found for index in part})  # no row twice
    return {index: value for part in found for index, value in part.items()}


def ask(folder: Path, info: RankInfo | None = None, actor: dict | None = None) -> dict:
    """What the driver asks of the ranks beside learning: numbers by row, and of the probe (of rank 0)."""
    worker = make_actor(
        make_config(str(folder / "tied"), teacher_regularization="trust-region", teacher_update_rate=0.3, actor=actor),
        info,
    )
    worker.update_policy([part(TAUGHT, worker, 2)])
    return {
        "log-probs": of_all_ranks(worker, lambda mine: worker.compute_log_probs(mine, "actor"), TAUGHT),
        "match": of_all_ranks(worker, worker.teacher_match, TAUGHT),
        "probe": worker.probe_log_probs([5, 6, 7, 8]),
    }


CASES = {
    # name: (tied, rows, micro-batch size, configuration)
    "ema-tied": (True, TAUGHT, 1, {"teacher_update_rate": 0.3, "distillation_topk": 5, "alpha": 0.5}),
    "trust-region-untied": (
        False,
        TAUGHT,
        2,
        {"teacher_regularization": "trust-region", "teacher_update_rate": 0.3, "distillation_topk": None, "alpha": 1.0},
    ),
    "grpo-kl-untied": (False, SCORED, 2, {"loss_mode": "vanilla"}),
    "lone-taught-row-tied": (True, [*LONE, TAUGHT[4], *LONE], 1, {"teacher_update_rate": 1.0, "alpha": 0.0}),
    "anchored-tied": (
        True,
        TAUGHT,
        1,
        {"teacher_update_rate": 0.3, "distillation_topk": None, **ANCHOR, "is_clip": None},
    ),
    "anchored-trust-region-untied": (
        False,
        TAUGHT,
        2,
        {"teacher_regularization": "trust-region", "teacher_update_rate": 0.3, "distillation_topk": 5, **ANCHOR},
    ),
    "anchored-lora-tied": (
        True,
        TAUGHT,
        2,
        {"model": {"lora_rank": 2, "lora_alpha": 8.0}, "teacher_update_rate": 0.5, "alpha": 1.0, **ANCHOR},
    ),
    # The frozen model beside a teacher that moves, beside one that does not, and as adapters.
    "kl-anchored-untied": (
        False,
        TAUGHT,
        1,
        {"teacher_update_rate": 0.3, "distillation_topk": 5, "kl_anchor_coef": 0.5},
    ),
    "kl-anchored-frozen-tied": (
        True,
        TAUGHT,
        2,
        {"teacher_update_rate": 0.0, "distillation_topk": None, "kl_anchor_coef": 0.5},
    ),
    "kl-anchored-lora-tied": (
        True,
        TAUGHT,
        2,
        {"model": {"lora_rank": 2, "lora_alpha": 8.0}, "teacher_update_rate": 0.5, "kl_anchor_coef": 0.5},
    ),
    "gspo-entropy-untied": (False, SCORED, 3, {"loss_mode": "gspo", "actor": {"entropy_coeff": 0.05}}),
    "lora-tied": (True, TAUGHT, 1, {"model": {"lora_rank": 2, "lora_alpha": 8.0}, "teacher_update_rate": 0.5}),
}


PADDED = {"remove_padding": False, "share_prefixes": False}
VARIANTS = {
    # name: (configuration, cut, the teacher's cut)
    "padded": ({"model": {"use_remove_padding": False}}, ForwardLimits(2, **PADDED), ForwardLimits(2, **PADDED)),
    "padded to a budget": (
        {"model": {"use_remove_padding": False}},
        ForwardLimits(max_tokens=14, **PADDED),
        ForwardLimits(max_tokens=20, **PADDED),
    ),
    "nothing shared": ({"share_prefixes": False}, ForwardLimits(share_prefixes=False), None),
    "kept gathered": ({"reshards": False}, ForwardLimits(1), None),
    "teacher row by row": ({}, ForwardLimits(), ForwardLimits(1)),
    "teacher at once": ({"reshards": False}, ForwardLimits(1), ForwardLimits()),
    "small budgets": ({}, ForwardLimits(max_tokens=8), ForwardLimits(max_tokens=17)),
}
"""Other ways to compute what a case computes."""
VARIED = ["ema-tied", "trust-region-untied", "grpo-kl-untied", "lora-tied", "anchored-tied"]


TOGETHER, ALONE = {"ulysses_sequence_parallel_size": 2}, {"fsdp_size": 1}
SPLITS = {
    # name: (configuration, of the actor, cases)
    "forwards together": ({}, TOGETHER, CASES),
    "replicas": (ALONE, {}, ["ema-tied", "grpo-kl-untied", "lora-tied"]),
    "together, replicas, kept gathered": (ALONE | {"reshards": False}, TOGETHER, ["ema-tied", "trust-region-untied"]),
}
"""Other ways for ranks to share the work and the weights."""
SPLIT_CASES = [(name, split) for split, (_, _, names) in SPLITS.items() for name in names]
FOUR_RANKS = {"fsdp_size": 2}
"""Two groups of forwards, two copies of the weights."""


def run_split(name: str, split: str, folder: Path, info: RankInfo) -> dict:
    """Train one case from the start in another way."""
    changed, actor, _ = SPLITS[split]
    return run_case(name, folder, info, changed=changed, actor=actor)


def run_case(
    name: str,
    folder: Path,
    info: RankInfo | None = None,
    variant: str = "",
    cut: int | None = None,
    changed: dict | None = None,
    actor: dict | None = None,
) -> dict:
    """Train one case from the start. `folder` holds the models, as `tied` and `untied`."""
    is_tied, rows, size, options = CASES[name]
    varied, limits, teacher_limits = VARIANTS.get(variant, ({}, cut or size, None))
    options = options | varied | (changed or {})
    options["model"] = CASES[name][3].get("model", {}) | varied.get("model", {})
    options["actor"] = options.get("actor", {}) | (actor or {})
    worker = make_actor(make_config(str(folder / ("tied" if is_tied else "untied")), **options), info)
    if worker.learner.algorithm.needs_reference:
        rows = with_reference(worker, rows)
    return train(worker, rows, limits, teacher_limits)
