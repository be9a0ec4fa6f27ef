"""What the benchmarks compute on: models, data, configurations and batches, the same for every side."""

import contextlib
import json
import random
import shutil
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # for the recipes

from recipes.embedded.make_data import make_data
from recipes.embedded.task import splits
from verl.config import PPOConfig
from verl.config.checks import ppo_problems
from verl.protocol import Row
from verl.trainer.compose import compose

HERE = Path(__file__).resolve().parent
EMBEDDED = HERE.parents[1] / "recipes" / "embedded" / "model"
NEVER_WRITTEN = ("<|system|>", 2)
"""A token, and its id, that the embedded model never writes."""


def endless_model(folder):
    """A copy of the embedded model that does not stop by itself: responses have the longest length allowed.

    Its end-of-sequence token is one that it never writes, which every engine understands without being told.
    """
    shutil.copytree(EMBEDDED, folder)
    token, token_id = NEVER_WRITTEN
    changes = {"config.json": token_id, "generation_config.json": token_id}
    for name, value in changes.items():
        _change(folder / name, eos_token_id=value)
    _change(folder / "tokenizer_config.json", eos_token=token)
    return folder


def random_model(folder, vocab_size=4096, hidden_size=512, num_layers=8):
    """A random Qwen3 with the embedded model's tokenizer (which names the first few hundred of its tokens)."""
    import torch
    from transformers import Qwen3Config, Qwen3ForCausalLM

    torch.manual_seed(0)
    shutil.copytree(EMBEDDED, folder, ignore=shutil.ignore_patterns("*.safetensors"))
    config = Qwen3Config(
        vocab_size=vocab_size,
        hidden_size=hidden_size,
        intermediate_size=3 * hidden_size,
        num_hidden_layers=num_layers,
        num_attention_heads=hidden_size // 64,
        num_key_value_heads=max(1, hidden_size // 128),
        head_dim=64,
        tie_word_embeddings=True,
        max_position_embeddings=32768,
        eos_token_id=NEVER_WRITTEN[1],
        pad_token_id=0,
        bos_token_id=None,
        dtype="float32",
    )
    model = Qwen3ForCausalLM(config)
    model.save_pretrained(folder)
    return folder, model.num_parameters()


def task_data(folder):
    """The embedded task's parquet files."""
    with contextlib.redirect_stdout(sys.stderr):
        make_data(folder, "weak")
    return folder


def training_questions():
    """What `task_data` holds as train.parquet, in order."""
    return splits()["train"]


def _change(path, **values):
    path.write_text(json.dumps(json.loads(path.read_text()) | values, indent=2))


def quickstart(overrides):
    """The quickstart's configuration with overrides: {key: value}."""
    argv = ["--config-name", "quickstart", *(f"{key}={_hydra(value)}" for key, value in overrides.items())]
    return compose(PPOConfig, "ppo_trainer", argv, ppo_problems)[0].config


def _hydra(value):
    return "null" if value is None else value


def step_overrides(model, data, prompts, samples, response, top_k, alpha, engine):
    """The work of one step on every side: one optimizer step for a batch, no feedback, a coin for a reward.

    The learning rate is so small that the text stays what it is while the arithmetic is done.
    """
    actor, rollout = "actor_rollout_ref.actor", "actor_rollout_ref.rollout"
    return {
        "vars.model": model,
        "vars.data": data,
        "data.val_files": None,
        "data.train_batch_size": prompts,
        "data.max_response_length": response,
        f"{actor}.ppo_mini_batch_size": prompts,
        f"{actor}.optim.lr": 1e-5,
        f"{actor}.optim.lr_warmup_steps": 0,
        f"{actor}.self_distillation.distillation_topk": top_k,
        f"{actor}.self_distillation.alpha": alpha,
        f"{actor}.self_distillation.teacher_update_rate": 0.05,
        f"{actor}.self_distillation.max_reprompt_len": 256 + response,
        f"{actor}.self_distillation.include_environment_feedback": False,
        f"{rollout}.name": engine,
        f"{rollout}.n": samples,
        "custom_reward_function.path": HERE / "coin_reward.py",
    }


def update_overrides(model, groups, samples, prompt, response, teacher_prompt):
    """An update on one batch by training ranks alone, nothing else of a step."""
    actor = "actor_rollout_ref.actor"
    return {
        "vars.model": model,
        "data.val_files": None,
        "data.train_batch_size": groups,
        "data.max_prompt_length": prompt,
        "data.max_response_length": response,
        f"{actor}.ppo_mini_batch_size": groups,
        f"{actor}.optim.lr": 1e-6,
        f"{actor}.optim.lr_warmup_steps": 0,
        f"{actor}.self_distillation.max_reprompt_len": teacher_prompt,
        f"{actor}.self_distillation.teacher_update_rate": 0.05,
        "actor_rollout_ref.rollout.n": samples,
    }


def count_tokens(rows):
    """Tokens of an update for student and teacher, in all rows and packed: common beginnings once."""
    student = [row.sequence() for row in rows]
    teacher = [row.sequence(for_teacher=True) for row in rows if row.is_taught]
    return {
        "student": sum(map(len, student)),
        "teacher": sum(map(len, teacher)),
        "student_packed": num_distinct_beginnings(student),
        "teacher_packed": num_distinct_beginnings(teacher),
    }


def num_distinct_beginnings(sequences):
    """Nodes of the tree of all sequences: the tokens that a causal model has to run for them."""
    nodes = {}
    for sequence in sequences:
        node = 0
        for token in sequence:
            node = nodes.setdefault((node, token), len(nodes) + 1)
    return len(nodes)


def batch_rows(groups, samples, prompt, response, teacher_prompt, taught, vocab_size, has_advantages, seed=0):
    """A recorded batch for an update alone.

    The responses of a group share the prompt. All but one are shown the same sibling, so they share the teacher's
    prompt as well; the sibling itself is shown another.

    Args:
        groups: prompts in the batch.
        samples: responses for each.
        prompt, response, teacher_prompt: lengths in tokens.
        taught: share of the responses that have a teacher prompt, the same in every group up to rounding.
        has_advantages: fill the advantages, as GRPO's batches have them.
    """
    rng, throws = random.Random(seed), random.Random(seed)  # texts are the same with and without advantages

    def text(length):
        return [rng.randrange(5, vocab_size) for _ in range(length)]

    rows = []
    for group in range(groups):
        asked, shown, other = text(prompt), text(teacher_prompt), text(teacher_prompt)
        for copy in range(samples):
            index = group * samples + copy
            is_taught = int((index + 1) * taught) > int(index * taught)
            rows.append(
                Row(
                    prompt_ids=asked,
                    response_ids=[5 + copy, *text(response - 1)],  # no two of a group begin alike
                    response_mask=[1] * response,
                    rollout_log_probs=[-1.0] * response,
                    advantages=[throws.uniform(-1, 1)] * response if has_advantages else [],
                    teacher_prompt_ids=(other if copy == 0 else shown) if is_taught else [],
                    index=index,
                )
            )
    return rows
