"""Supervised fine-tuning on the same workers as the reinforcement loop: rows in, next-token loss on the response.

One rank trains in this process, without Ray; more ranks are Ray workers. The embedded model is made with it.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from verl.config import ActorConfig, ActorRolloutRefConfig, PolicyLossConfig, SFTConfig
from verl.config.actor import CheckpointConfig
from verl.config.forwards import ForwardLimits, update_limits
from verl.dataset import DataIdentity, SFTDataset, StatefulSampler, fingerprint_rows
from verl.models.loading import load_tokenizer
from verl.protocol import Row, mean_metrics, plan_mini_batch
from verl.single_controller import WorkerGroup
from verl.trainer.batch_metrics import Timer
from verl.trainer.checkpointing import RunCheckpoints
from verl.trainer.guards import NonFiniteLimit
from verl.trainer.phases import Phases
from verl.trainer.roles import sft_workers
from verl.trainer.run import recorded_run, run_folder
from verl.trainer.start_checks import check_chat_template
from verl.trainer.watchdog import watchdog
from verl.types import InputError


def worker_config(config: SFTConfig) -> ActorRolloutRefConfig:
    """The actor worker's configuration for plain next-token training."""
    actor = ActorConfig(
        policy_loss=PolicyLossConfig(loss_mode="sft"),
        optim=config.optim,
        fsdp_config=config.fsdp_config,
        grad_clip=config.grad_clip,
        ppo_micro_batch_size_per_gpu=config.data.micro_batch_size_per_gpu,
        ulysses_sequence_parallel_size=config.ulysses_sequence_parallel_size,
    )
    return ActorRolloutRefConfig(model=config.model, actor=actor)


def train(config: SFTConfig) -> Path:
    """Train, then export a Hugging Face folder. Returns that folder (`<run folder>/huggingface`)."""
    data, trainer = config.data, config.trainer
    tokenizer = load_tokenizer(str(config.model.tokenizer_path or config.model.path), config.model.trust_remote_code)
    check_chat_template(tokenizer, config.model.tokenizer_path or config.model.path, data.apply_chat_template_kwargs)
    if tokenizer.eos_token_id is None:
        raise InputError(
            f"model.path={config.model.path}: its tokenizer has no end-of-sequence token to end responses with. Set"
            " eos_token in tokenizer_config.json."
        )
    rows = SFTDataset(data.train_files or [], tokenizer, data)
    validation = SFTDataset(data.val_files, tokenizer, data) if data.val_files else []
    seed = data.seed if data.seed is not None else trainer.seed
    sampler = StatefulSampler(len(rows), data.train_batch_size, data.shuffle, seed)
    total_steps = trainer.total_training_steps or trainer.total_epochs * (len(rows) // data.train_batch_size)
    limits = update_limits(worker_config(config))
    identity = DataIdentity.of(fingerprint_rows(rows), data.train_files or [])
    phases, logs = Phases(), run_folder(trainer) / "logs"
    with (
        recorded_run(config) as run,
        run.tracking(total_steps) as tracking,
        sft_workers(worker_config(config), trainer, total_steps, logs) as workers,
        RunCheckpoints(run.folder, trainer, workers, sampler, CheckpointConfig(), identity) as checkpoints,
        watchdog(trainer.watchdog_seconds, [workers], phases, logs, run.record_failure),
    ):
        limit = NonFiniteLimit(trainer.max_nonfinite_updates)
        step = checkpoints.resume()
        tracking.start_from(step)
        while step < total_steps:
            step += 1
            timer = Timer(phases)
            with timer("step"):
                batch = [rows[index] for index in sampler.next_batch()]
                metrics = train_step(workers, batch, limits)
            if validation and (step == total_steps or (trainer.test_freq > 0 and step % trainer.test_freq == 0)):
                with phases("testing"):
                    metrics["val/loss"] = validation_loss(workers, list(validation), limits)
            tracking.log(metrics | timer.metrics(), step)
            if limit.is_touched_by(metrics):
                limit.check(step, workers.update_results())
            with phases("saving"):
                checkpoints.save_if_due(step, total_steps)
        folder = run.folder / "huggingface"
        workers.export_huggingface(str(folder))
    return folder


def train_step(workers: WorkerGroup, rows: list[Row], limits: ForwardLimits) -> dict[str, float]:
    """One optimizer step over `rows`."""
    parts = plan_mini_batch(rows, workers.world_size, limits)
    results = workers.update_policy([[part] for part in parts])
    return mean_metrics(results)


def validation_loss(workers: WorkerGroup, rows: list[Row], limits: ForwardLimits) -> float:
    """Mean negative log-prob of the response tokens, in nats."""
    rows = [replace(row, index=index) for index, row in enumerate(rows)]
    parts = plan_mini_batch(rows, workers.world_size, replace(limits, max_rows=limits.max_rows or 64))
    values = [v for found in workers.compute_log_probs(parts, "actor") for row in found.values() for v in row]
    return -sum(values) / max(len(values), 1)
