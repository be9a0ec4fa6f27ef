"""Rules between the parts of a configuration. Each returns sentences that begin with `key=value: `, so that everything
that is wrong is said at once, before torch is imported and before any GPU is taken."""

from __future__ import annotations

from verl.config.actor import FSDPConfig, ModelConfig
from verl.config.evaluation import EvaluationConfig, GenerationConfig
from verl.config.forwards import log_prob_tokens
from verl.config.model_shape import ModelShape, read_shape
from verl.config.root import PPOConfig, SFTConfig, TrainerConfig
from verl.config.slots import engine_problems, is_split

ACTOR = "actor_rollout_ref.actor"
ROLLOUT = "actor_rollout_ref.rollout"
REF = "actor_rollout_ref.ref"
SUPERVISED = {"sft"}
"""Losses of `main_sft` alone."""
SAFE_EMA_RATE = 0.01
"""EMA rates up to this were not seen to collapse."""
GROUP_ESTIMATORS = {"grpo", "rloo"}
"""Estimators that compare the responses to one prompt with each other."""


def ppo_problems(config: PPOConfig) -> list[str]:
    """Everything between the parts that is wrong, files apart."""
    rules = (loss, batch_arithmetic, lengths, credit, reference_use, rollout_correction, schedule, engines, validation)
    actor, model = config.actor_rollout_ref.actor, config.actor_rollout_ref.model
    return [
        *(problem for rule in rules for problem in rule(config)),
        *shards(f"{ACTOR}.fsdp_config", actor.fsdp_config, config.trainer),
        *sequence_parallelism(ACTOR, actor.ulysses_sequence_parallel_size, model, config.trainer),
        *model_given("actor_rollout_ref.model.path", model.path),
    ]


def loss(config: PPOConfig) -> list[str]:
    """Learning every response, whatever its score, is no reinforcement."""
    mode = config.actor_rollout_ref.actor.policy_loss.loss_mode
    if mode not in SUPERVISED:
        return []
    return [
        f"{ACTOR}.policy_loss.loss_mode={mode}: learns every response, whatever its score; supervised fine-tuning is"
        " python -m verl.trainer.main_sft"
    ]


def ppo_advice(config: PPOConfig) -> list[str]:
    """What is allowed, and was seen to go wrong: sentences like those of a problem."""
    return [*saves_nothing(config.trainer), *fast_teacher(config)]


def saves_nothing(trainer: TrainerConfig) -> list[str]:
    """A long run whose model is gone at its end."""
    if trainer.save_freq > 0 or trainer.save_last or trainer.val_only:
        return []
    return [
        f"trainer.save_freq={trainer.save_freq}: no checkpoint is written, and the trained model is gone when the run"
        " ends. trainer.save_last=true saves it; trainer.save_freq=20 saves every 20 steps too, to go on from."
    ]


def fast_teacher(config: PPOConfig) -> list[str]:
    """A teacher that follows the student may collapse with it."""
    settings = config.actor_rollout_ref.actor.self_distillation
    follows = settings.teacher_regularization == "ema" and settings.teacher_update_rate > SAFE_EMA_RATE
    if not has_teacher(config) or not follows or settings.teacher_anchor_coef > 0:
        return []
    return [
        f"{ACTOR}.self_distillation.teacher_update_rate={settings.teacher_update_rate:g}: a teacher that follows the"
        f" student faster than {SAFE_EMA_RATE:g} was seen to collapse, because the student forgets how to read the"
        " teacher's prompts, and the teacher inherits that (docs/stability.md). Watch"
        " self_distillation/teacher_demo_log_prob, and set teacher_anchor_coef=0.3, or a lower rate."
    ]


def batch_arithmetic(config: PPOConfig) -> list[str]:
    """Prompts per step against prompts per update, and responses against ranks."""
    actor, n = config.actor_rollout_ref.actor, config.actor_rollout_ref.rollout.n
    prompts, mini = config.data.train_batch_size, actor.ppo_mini_batch_size
    ranks = config.trainer.nnodes * config.trainer.n_gpus_per_node
    together = actor.ulysses_sequence_parallel_size
    num_parts = ranks // together
    sharing = f" / {together} that share a forward" if together > 1 else ""
    problems = []
    if prompts % mini:
        arithmetic = f"{prompts} prompts of a step / {mini} prompts of an update = {prompts / mini:g} updates"
        problems.append(
            f"{ACTOR}.ppo_mini_batch_size={mini}: must divide data.train_batch_size={prompts} ({arithmetic}). Allowed"
            f" here: {', '.join(map(str, divisors(prompts)))}"
        )
    if mini * n < num_parts:
        problems.append(
            f"{ACTOR}.ppo_mini_batch_size={mini}: {mini} prompts x {n} responses = {mini * n} responses in an update"
            f" are fewer than the {num_parts} {'groups of ' if sharing else ''}ranks (trainer.nnodes="
            f"{config.trainer.nnodes} x trainer.n_gpus_per_node={config.trainer.n_gpus_per_node}{sharing}). Raise"
            f" ppo_mini_batch_size or {ROLLOUT}.n"
        )
    return problems


def shards(prefix: str, fsdp: FSDPConfig, trainer: TrainerConfig) -> list[str]:
    """Ranks that hold a copy of the weights, against all ranks. `prefix`: of `fsdp_size`."""
    ranks = trainer.nnodes * trainer.n_gpus_per_node
    if fsdp.fsdp_size < 1 or ranks % fsdp.fsdp_size == 0:
        return []
    return [
        f"{prefix}.fsdp_size={fsdp.fsdp_size}: must divide the {ranks} ranks (trainer.nnodes={trainer.nnodes} x"
        f" trainer.n_gpus_per_node={trainer.n_gpus_per_node}). Allowed here: -1 (all),"
        f" {', '.join(map(str, divisors(ranks)))}"
    ]


def sequence_parallelism(prefix: str, size: int, model: ModelConfig, trainer: TrainerConfig) -> list[str]:
    """Ranks that share a forward, against all ranks and the model. `prefix`: of the key, or empty."""
    key = ".".join(filter(None, [prefix, "ulysses_sequence_parallel_size"])) + f"={size}"
    ranks, shape = trainer.nnodes * trainer.n_gpus_per_node, local_shape(model.path)
    problems = []
    if ranks % size:
        problems.append(
            f"{key}: must divide the {ranks} ranks (trainer.nnodes={trainer.nnodes} x"
            f" trainer.n_gpus_per_node={trainer.n_gpus_per_node}). Allowed here: {', '.join(map(str, divisors(ranks)))}"
        )
    if size > 1 and not model.use_remove_padding:
        problems.append(f"{key}: cuts a packed line of tokens, and needs model.use_remove_padding=True")
    if shape is not None and shape.num_heads % size:
        problems.append(
            f"{key}: must divide the {shape.num_heads} attention heads of {model.path}. Allowed here:"
            f" {', '.join(map(str, divisors(shape.num_heads)))}"
        )
    return problems


def divisors(number: int, most: int = 12) -> list[int]:
    """The largest divisors, in rising order."""
    return [d for d in range(1, number + 1) if number % d == 0][-most:]


def lengths(config: PPOConfig) -> list[str]:
    """Prompt plus response against the engine's and the model's limits and the token budgets of a forward."""
    data, actor, rollout = config.data, config.actor_rollout_ref.actor, config.actor_rollout_ref.rollout
    sequence = data.max_prompt_length + data.max_response_length
    sum_text = (
        f"data.max_prompt_length={data.max_prompt_length} + data.max_response_length={data.max_response_length}"
        f" = {sequence} tokens"
    )
    problems = []
    if rollout.max_model_len is not None and rollout.max_model_len < sequence:
        problems.append(f"{ROLLOUT}.max_model_len={rollout.max_model_len}: is shorter than {sum_text}")
    longest, longest_text = sequence, sum_text
    distillation = actor.self_distillation
    teacher_sequence = distillation.max_reprompt_len + data.max_response_length
    if has_teacher(config) and teacher_sequence > sequence:
        longest = teacher_sequence
        longest_text = (
            f"the teacher's {ACTOR}.self_distillation.max_reprompt_len={distillation.max_reprompt_len}"
            f" + data.max_response_length={data.max_response_length} = {longest} tokens"
        )
    student, teacher = (sequence, sum_text), (longest, longest_text)
    learnt = teacher if distillation.teacher_anchor_coef > 0 else student  # an anchor is learnt on the teacher's prompt
    split = actor.ulysses_sequence_parallel_size
    update_tokens = split * actor.ppo_max_token_len_per_gpu if actor.use_dynamic_bsz else None
    for key, budget, needed, text in (
        (f"{ACTOR}.ppo_max_token_len_per_gpu", update_tokens, *learnt),
        (f"{ROLLOUT}.log_prob_max_token_len_per_gpu", log_prob_tokens(actor, rollout), *student),
        (f"{REF}.log_prob_max_token_len_per_gpu", log_prob_tokens(actor, config.actor_rollout_ref.ref), *teacher),
    ):
        if budget and budget < needed:
            each = f"{budget // split}: times the {split} ranks of a forward" if split > 1 else f"{budget}:"
            problems.append(f"{key}={each} does not hold {text}")
    if has_teacher(config) and distillation.max_reprompt_len < data.max_prompt_length:
        problems.append(
            f"{ACTOR}.self_distillation.max_reprompt_len={distillation.max_reprompt_len}: must hold a prompt of"
            f" data.max_prompt_length={data.max_prompt_length} tokens, and the demonstration or feedback besides"
        )
    shape = local_shape(config.actor_rollout_ref.model.path)
    if shape is not None and shape.max_positions is not None and shape.max_positions < longest:
        problems.append(
            f"actor_rollout_ref.model.path={config.actor_rollout_ref.model.path}: has {shape.max_positions} positions,"
            f" fewer than {longest_text}"
        )
    return problems


def local_shape(path: str | None) -> ModelShape | None:
    """The shape of a model folder on this machine; None when it cannot be told."""
    try:
        return read_shape(path) if path else None
    except (OSError, ValueError):
        return None


def has_teacher(config: PPOConfig) -> bool:
    """What `Algorithm.needs_teacher` will say, without importing torch."""
    actor = config.actor_rollout_ref.actor
    return actor.policy_loss.loss_mode == "sdpo" and actor.self_distillation.grpo_lambda < 1


def uses_advantages(config: PPOConfig) -> bool:
    """What `Algorithm.needs_advantages` will say, without importing torch."""
    actor = config.actor_rollout_ref.actor
    settings = actor.self_distillation
    return actor.policy_loss.loss_mode in ("vanilla", "gspo", "cispo") or (
        actor.policy_loss.loss_mode == "sdpo" and (settings.grpo_lambda > 0 or settings.correct_samples == "grpo")
    )


def has_reference(config: PPOConfig) -> bool:
    """What `Algorithm.needs_reference` will say, without importing torch."""
    actor = config.actor_rollout_ref.actor
    is_held = actor.policy_loss.loss_mode == "sdpo" and actor.self_distillation.kl_anchor_coef > 0
    return actor.use_kl_loss or config.algorithm.use_kl_in_reward or is_held


def has_copy_for_reference(config: PPOConfig) -> bool:
    """Whether the reference is a model of its own: there is one, and no teacher whose weights stand still."""
    settings = config.actor_rollout_ref.actor.self_distillation
    stands_still = settings.teacher_regularization == "trust-region" or settings.teacher_update_rate == 0
    return has_reference(config) and not (has_teacher(config) and stands_still)


def credit(config: PPOConfig) -> list[str]:
    """Whether anything can be learnt from a group of this size."""
    n, distillation = config.actor_rollout_ref.rollout.n, config.actor_rollout_ref.actor.self_distillation
    told = distillation.include_environment_feedback
    problems = []
    policy_loss = config.actor_rollout_ref.actor.policy_loss
    if policy_loss.high_entropy_fraction is not None and not uses_advantages(config):
        problems.append(
            f"{ACTOR}.policy_loss.high_entropy_fraction={policy_loss.high_entropy_fraction}: chooses tokens of a policy"
            f" gradient, and loss_mode={policy_loss.loss_mode} has none here; set it to null, or take"
            " loss_mode=vanilla, gspo or cispo, or sdpo with a grpo_lambda"
        )
    if uses_advantages(config) and n == 1 and config.algorithm.adv_estimator in GROUP_ESTIMATORS:
        problems.append(
            f"{ROLLOUT}.n=1: algorithm.adv_estimator={config.algorithm.adv_estimator} compares the responses to one"
            " prompt, and needs at least 2 of them; or take adv_estimator=reinforce_plus_plus"
        )
    if has_teacher(config) and distillation.demonstration_choice == "none" and not told:
        problems.append(
            f"{ACTOR}.self_distillation.demonstration_choice=none: with include_environment_feedback=False the teacher"
            " would be shown nothing at all; take another choice, or set include_environment_feedback=True"
        )
    elif has_teacher(config) and n == 1 and distillation.dont_reprompt_on_self_success and not told:
        problems.append(
            f"{ROLLOUT}.n=1: the teacher would have neither another response to show nor feedback; raise n, or set"
            f" {ACTOR}.self_distillation.include_environment_feedback=True"
        )
    return problems


def reference_use(config: PPOConfig) -> list[str]:
    """SDPO's teacher and a frozen reference share one slot; with LoRA they share the student's base weights."""
    roles, problems = config.actor_rollout_ref, []
    if roles.model.lora_rank and roles.ref.model.path not in (None, roles.model.path):
        problems.append(
            f"actor_rollout_ref.ref.model.path={roles.ref.model.path}: with LoRA (lora_rank={roles.model.lora_rank})"
            " teacher and student share the base weights; leave it null, or set lora_rank=0"
        )
    if has_teacher(config):
        used = {"actor_rollout_ref.actor.use_kl_loss": roles.actor.use_kl_loss}
        used["algorithm.use_kl_in_reward"] = config.algorithm.use_kl_in_reward
        text = (
            "the reference model's place is taken by the teacher of loss_mode=sdpo; set it to False. A KL to a frozen"
            f" model beside the teacher is {ACTOR}.self_distillation.kl_anchor_coef"
        )
        problems += [f"{key}=True: {text}" for key, on in used.items() if on]
    return problems


def rollout_correction(config: PPOConfig) -> list[str]:
    """The correction compares with the engine's log-probs, which must be kept."""
    correction = config.algorithm.rollout_correction
    prefix = "algorithm.rollout_correction"
    wanted = [f"{prefix}.rollout_is={correction.rollout_is}"] if correction.rollout_is else []
    wanted += [f"{prefix}.bypass_mode=True"] if correction.bypass_mode else []
    if config.actor_rollout_ref.rollout.calculate_log_probs:
        return []
    return [f"{key}: needs the engine's log-probs; set {ROLLOUT}.calculate_log_probs=True" for key in wanted]


def schedule(config: PPOConfig) -> list[str]:
    """Responses that are behind the weights are not learnt from as if they were not."""
    correction, name = config.algorithm.rollout_correction, config.trainer.rollout_schedule
    if name == "on_policy" or correction.rollout_is or correction.bypass_mode:
        return []
    return [
        f"trainer.rollout_schedule={name}: responses are one update behind the weights, which must be corrected; set"
        f" algorithm.rollout_correction.rollout_is=token (and {ROLLOUT}.calculate_log_probs=True)"
    ]


def engines(config: PPOConfig) -> list[str]:
    """Engines against GPUs (without GPUs they are processes), and the keys of a split against each other."""
    roles, trainer = config.actor_rollout_ref, config.trainer
    rollout, problems = roles.rollout, []
    if roles.hybrid_engine == is_split(roles):
        way = (
            f"set {ROLLOUT}.nnodes (and n_gpus_per_node) to what engines have for themselves, or hybrid_engine=True"
            if rollout.nnodes == 0
            else f"set it to False, or {ROLLOUT}.nnodes=0"
        )
        says = "shares the training ranks' GPUs" if rollout.nnodes == 0 else "gives engines their own"
        problems.append(
            f"actor_rollout_ref.hybrid_engine={roles.hybrid_engine}: {ROLLOUT}.nnodes={rollout.nnodes} {says}; {way}"
        )
    if not is_split(roles) and rollout.n_gpus_per_node not in (None, trainer.n_gpus_per_node):
        problems.append(
            f"{ROLLOUT}.n_gpus_per_node={rollout.n_gpus_per_node}: is used with {ROLLOUT}.nnodes only, which is 0; set"
            " it, or take the key out"
        )
    return problems + ([] if trainer.device == "cpu" else engine_problems(roles, trainer))


def validation(config: PPOConfig) -> list[str]:
    """Data sets that the run cannot do without."""
    problems = []
    if not config.data.train_files:
        problems.append("data.train_files=null: name the training data, data.train_files=<file.parquet>")
    if config.trainer.val_only and not config.data.val_files:
        problems.append("data.val_files=null: trainer.val_only=True needs validation data")
    return problems


def model_given(key: str, path: str | None) -> list[str]:
    """A model is named."""
    return [] if path else [f"{key}=null: name the model, {key}=<folder or hub name>"]


def sft_problems(config: SFTConfig) -> list[str]:
    """The rules of supervised fine-tuning, files apart."""
    problems = model_given("model.path", config.model.path)
    problems += shards("fsdp_config", config.fsdp_config, config.trainer)
    problems += sequence_parallelism("", config.ulysses_sequence_parallel_size, config.model, config.trainer)
    if not config.data.train_files:
        problems.append("data.train_files=null: name the training data, data.train_files=<file.parquet>")
    ranks = config.trainer.nnodes * config.trainer.n_gpus_per_node
    used = {"record": config.trainer.record, "replay": config.trainer.replay}
    problems += [f"trainer.{key}={value}: fine-tuning has no rollouts" for key, value in used.items() if value]
    problems += without_effect_on_sft(config.trainer)
    if config.data.train_batch_size < ranks // config.ulysses_sequence_parallel_size:
        problems.append(f"data.train_batch_size={config.data.train_batch_size}: fewer rows than the {ranks} ranks")
    return problems


def without_effect_on_sft(trainer: TrainerConfig) -> list[str]:
    """Keys that supervised fine-tuning does not read, and whose protection somebody might count on."""
    problems = []
    if trainer.max_restarts:
        problems.append(
            f"trainer.max_restarts={trainer.max_restarts}: fine-tuning does not restart by itself; set it to 0, and"
            " start the same command again: it resumes from its newest checkpoint"
        )
    if metric := trainer.stop_on_collapse.metric:
        problems.append(
            f"trainer.stop_on_collapse.metric={metric}: fine-tuning does not watch for a collapse; set it to null"
        )
    return problems


def generation_problems(config: GenerationConfig) -> list[str]:
    """The rules of writing responses, files apart."""
    data, model, run = config.data, config.actor_rollout_ref.model, config.as_run()
    problems = model_given("actor_rollout_ref.model.path", model.path)
    if not data.path:
        problems.append("data.path=null: name the prompts, data.path=<file.parquet>")
    if not data.output_path:
        problems.append("data.output_path=null: name the file to write, data.output_path=<file.parquet or file.jsonl>")
    if model.lora_rank:
        problems.append(
            f"actor_rollout_ref.model.lora_rank={model.lora_rank}: would add untrained adapters; export a checkpoint"
            " (python -m verl.checkpoint export), whose adapters are merged, and name that folder"
        )
    return problems + lengths(run) + engines(run)


def evaluation_problems(config: EvaluationConfig) -> list[str]:
    """The rules of scoring responses, files apart."""
    return [] if config.data.path else ["data.path=null: name the responses, data.path=<file.parquet or file.jsonl>"]
