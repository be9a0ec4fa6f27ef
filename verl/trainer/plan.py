"""`trainer.dry_run=true`: what a run would start, do and need, in words, without starting anything.

Reads the configuration, the footer of the parquet files and the model's config.json; no torch, no Ray, no GPU.
"""

from __future__ import annotations

from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from verl.config import PPOConfig, SFTConfig
from verl.config.checks import has_teacher, uses_advantages
from verl.config.forwards import ForwardLimits, log_prob_limits, update_limits
from verl.config.root import ActorRolloutRefConfig, TrainerConfig
from verl.trainer.memory import estimate, find_shape, gpu_sizes, human, micro_batch, sums
from verl.trainer.plan_placement import placement_lines, problems_here

Lines = list[tuple[str, str]]
SCHEDULES = {
    "on_policy": "written before the update, with the newest weights",
    "one_step_off": "written while the step before updates, with weights one update behind",
}


def print_ppo_plan(config: PPOConfig, missing: list[str]) -> None:
    """Print the plan of a reinforcement-learning run."""
    gpus = gpu_sizes()
    gpu_bytes = gpus[0] if gpus else None
    on_gpu = config.trainer.device == "cuda" or (config.trainer.device == "auto" and bool(gpus))
    console = Console(highlight=False, soft_wrap=True)
    _section(console, "Run", run_lines(config.trainer) + method_lines(config))
    _section(console, "Workers and placement", placement_lines(config, on_gpu, len(gpus)))
    _section(console, "One step", step_lines(config))
    print_memory(console, config, on_gpu, gpu_bytes)
    _finish(console, missing + problems_here(config, len(gpus)))


def print_sft_plan(config: SFTConfig, missing: list[str]) -> None:
    """Print the plan of a supervised run."""
    console = Console(highlight=False, soft_wrap=True)
    data, trainer = config.data, config.trainer
    ranks = trainer.nnodes * trainer.n_gpus_per_node
    rows = count_rows(data.train_files or [])
    steps = trainer.total_training_steps or (rows and trainer.total_epochs * (rows // data.train_batch_size))
    shape = find_shape(config.model.path)
    size = shape if isinstance(shape, str) else f"{shape.num_params or 'unknown number of'} parameters"
    lines = [
        ("model", f"{config.model.path} ({size})"),
        ("ranks", f"{ranks} (FSDP2)"),
        ("rows in one step", f"{data.train_batch_size}, one optimizer update"),
        ("training rows", _unknown(rows)),
        ("steps", _unknown(steps)),
    ]
    _section(console, "Plan", run_lines(trainer) + lines)
    _finish(console, missing)


def print_tool_plan(lines: Lines, missing: list[str]) -> None:
    """Print the plan of a command that trains nothing."""
    console = Console(highlight=False, soft_wrap=True)
    _section(console, "Plan", lines)
    _finish(console, missing)


def _unknown(number: int | None) -> str:
    return "unknown until the data can be read" if number is None else f"{number:,}"


def _section(console: Console, title: str, lines: Lines) -> None:
    console.print(f"\n[bold]{title}[/bold]")
    width = max(len(name) for name, _ in lines)
    for name, text in lines:
        console.print(f"  {name:<{width}}  {escape(text)}")


def _finish(console: Console, missing: list[str]) -> None:
    if missing:
        console.print("\n[bold]Would stop the run on this machine[/bold]")
        for problem in missing:
            console.print(f"  - {escape(problem)}")
    console.print("\nDry run: nothing was started.")


def run_lines(trainer: TrainerConfig) -> Lines:
    """Name, folder and what happens besides training."""
    folder = trainer.default_local_dir or f"checkpoints/{trainer.project_name}/{trainer.experiment_name}"
    every = {True: "every {} steps", False: "never between"}
    saves = every[trainer.save_freq > 0].format(trainer.save_freq) + (", and at the end" if trainer.save_last else "")
    return [
        ("run", f"{trainer.project_name} / {trainer.experiment_name}"),
        ("run folder", folder),
        ("checkpoints", f"{saves}; resume_mode={trainer.resume_mode}"),
        ("loggers", ", ".join(trainer.logger)),
    ]


def method_lines(config: PPOConfig) -> Lines:
    """The algorithm and what it needs."""
    actor, algorithm = config.actor_rollout_ref.actor, config.algorithm
    lines = [("algorithm", f"loss_mode={actor.policy_loss.loss_mode}, lr={actor.optim.lr:g}")]
    if has_teacher(config):
        distillation = actor.self_distillation
        top = (
            "the whole vocabulary"
            if distillation.distillation_topk is None
            else f"the {distillation.distillation_topk} likeliest tokens"
        )
        teacher = f"{distillation.teacher_regularization}, rate {distillation.teacher_update_rate:g}"
        lines.append(("teacher", f"{teacher}; alpha={distillation.alpha:g}, compared on {top}"))
    if uses_advantages(config):
        lines.append(("advantages", algorithm.adv_estimator))
    if algorithm.rollout_correction.rollout_is:
        correction = algorithm.rollout_correction
        lines.append(("rollout correction", f"{correction.rollout_is}, up to {correction.rollout_is_threshold:g}"))
    return lines


def step_lines(config: PPOConfig) -> Lines:
    """Batch arithmetic in words."""
    data, actor, rollout = config.data, config.actor_rollout_ref.actor, config.actor_rollout_ref.rollout
    ranks = config.trainer.nnodes * config.trainer.n_gpus_per_node
    responses = data.train_batch_size * rollout.n
    tokens = data.max_prompt_length + data.max_response_length
    updates = data.train_batch_size // actor.ppo_mini_batch_size * actor.ppo_epochs
    per_update = actor.ppo_mini_batch_size * rollout.n
    together = actor.ulysses_sequence_parallel_size
    per_rank = per_update / (ranks // together)
    rows, _ = micro_batch(config)
    roles = config.actor_rollout_ref
    cut = _forward_text(update_limits(roles), rows)
    teacher = ""
    if has_teacher(config):
        teacher = f"; the teacher's of {_forward_text(log_prob_limits(roles, roles.ref), round(per_rank))}"
    train_rows = count_rows(data.train_files or [])
    if train_rows is not None and data.train_max_samples > 0:
        train_rows = min(train_rows, data.train_max_samples)
    per_epoch = None if train_rows is None else train_rows // data.train_batch_size
    steps = config.trainer.total_training_steps
    if steps is None and per_epoch is not None:
        steps = config.trainer.total_epochs * per_epoch
    total = "" if steps is None else f", {steps * responses:,} responses and {steps * updates:,} updates"
    return [
        ("prompts", f"{data.train_batch_size} x {rollout.n} responses = {responses} rollouts"),
        (
            "tokens",
            f"at most {data.max_prompt_length} + {data.max_response_length} = {tokens} each,"
            f" {responses * tokens:,} in a step ({responses * data.max_response_length:,} written)",
        ),
        (
            "updates",
            f"{data.train_batch_size} / {actor.ppo_mini_batch_size} prompts x {actor.ppo_epochs} epoch(s)"
            f" = {updates} optimizer updates of {per_update} rollouts",
        ),
        (
            "each rank" if together == 1 else f"each {together} ranks",
            f"about {per_rank:g} rollouts of an update, in micro-batches of {cut}{teacher}",
        ),
        ("rows", rows_text(roles)),
        ("training prompts", f"{_unknown(train_rows)}; steps in an epoch: {_unknown(per_epoch)}"),
        ("steps", f"{_unknown(steps)}{total}"),
        ("responses", SCHEDULES[config.trainer.rollout_schedule]),
        ("validation", validation_text(config)),
    ]


def _forward_text(limits: ForwardLimits, num_rows: int) -> str:
    """How much goes into one forward of a rank that has `num_rows` rows."""
    if limits.max_tokens:
        return f"at most {limits.max_tokens} tokens"
    return f"{min(limits.max_rows or num_rows, num_rows)} responses"


def rows_text(roles: ActorRolloutRefConfig) -> str:
    """In what form rows go through a model."""
    if not roles.model.use_remove_padding:
        return "padded"
    return "packed without padding" + (", a common beginning once" if roles.actor.use_prefix_grouper else "")


def validation_text(config: PPOConfig) -> str:
    """When validation is done, and on how much."""
    trainer, sampling = config.trainer, config.actor_rollout_ref.rollout.val_kwargs
    if not config.data.val_files:
        return "none (data.val_files=null)"
    times = ["before training"] if trainer.val_before_train else []
    times += [f"every {trainer.test_freq} steps", "at the end"] if trainer.test_freq > 0 else []
    how = f"temperature {sampling.temperature:g}" if sampling.do_sample and sampling.temperature else "greedy"
    rows = count_rows(config.data.val_files)
    return f"{_unknown(rows)} prompts x {sampling.n} responses ({how}); {', '.join(times) or 'never'}"


def count_rows(files: list[str]) -> int | None:
    """Rows of parquet files, from their footers; None when one cannot be read."""
    import pyarrow
    from pyarrow import parquet

    try:
        return sum(parquet.read_metadata(Path(file).expanduser()).num_rows for file in files)
    except (OSError, pyarrow.ArrowException):
        return None


def print_memory(console: Console, config: PPOConfig, on_gpu: bool, gpu_bytes: int | None) -> None:
    """The table of estimated memory, or why there is none."""
    unit = "GPU" if on_gpu else "CPU rank"
    console.print(f"\n[bold]Estimated memory per {unit}[/bold]")
    shape = find_shape(config.actor_rollout_ref.model.path)
    if isinstance(shape, str):
        for name in ("weights", "gradients", "optimizer", "teacher", "activations", "logits", "KV cache"):
            console.print(f"  {name:<11}  unknown")
        console.print(f"  because {escape(shape)}")
        return
    rows = estimate(config, shape, on_gpu, gpu_bytes)
    if not rows:
        console.print("  unknown: the parameters of this architecture are not counted here")
        return
    table = Table("part", "size", "how", box=None, padding=(0, 2))
    for row in rows:
        table.add_row(row.name, human(row.size), escape(row.how))
    for name, size in sums(config, rows, on_gpu):
        table.add_row(name, human(size), f"of {human(gpu_bytes)}" if gpu_bytes else "")
    console.print(table)
