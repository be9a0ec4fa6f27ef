"""Trainers whose completions are written in advance, so that every number they come to can be known.

The tiny model of the repository in float64, plain SGD with learning rate 1 (what a step adds to a weight is minus its
gradient), and TRL's `rollout_func` in place of sampling. Also a script: `scripted.py FOLDER` is one process of several.
"""

import json
import sys
from pathlib import Path

import torch
from datasets import Dataset
from sdpo_trainer import SDPOConfig, SDPOTrainer
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import GRPOConfig

MODEL = str(Path(__file__).resolve().parents[2] / "recipes" / "embedded" / "model")
PROMPTS = [
    [{"role": "user", "content": "shower in the attic to 6"}],
    [{"role": "user", "content": "lamp in the office to 3"}],
]
RIGHT = "shower.move(room=attic,value=6)"
TEXTS = [
    "shower.set(room=attic,value=6)",
    "shower.move(value=6)",
    "lamp.put(room=office,level=3)",
    "shower.turn(room=attic)",
    "shower.push(power=6,room=attic)",
    "oven.dial(room=hallway,gain=1,rate=2)",
    RIGHT,
    "shower.move(room=attic,power=6)",
]
"""Completions of the rows of a rollout batch, in the order of all ranks; only the one before the last is right."""


def load(dtype=torch.float64, path=MODEL):
    return AutoModelForCausalLM.from_pretrained(path, dtype=dtype)


def tokenizer():
    return AutoTokenizer.from_pretrained(MODEL)


def told(text):
    """What the environment says about a completion."""
    return None if text == RIGHT else f"no such call {text}"


def judge(prompts, completions, **_):
    """A reward function that tells a score and feedback."""
    texts = [c if isinstance(c, str) else c[0]["content"] for c in completions]
    return [{"score": float(text == RIGHT), "feedback": told(text)} for text in texts]


def write(texts=TEXTS, log_probs=None):
    """A `rollout_func`: row number g of a batch, over all ranks, is completed by texts[g].

    `log_probs`: what the engine is said to have given each completion's tokens, from the first on; None is no number.
    """

    def rollout(prompts, trainer):
        tok = trainer.processing_class
        first = trainer.accelerator.process_index * len(prompts)
        own = [
            [*tok.encode(text, add_special_tokens=False), tok.eos_token_id]
            for text in texts[first : first + len(prompts)]
        ]
        if isinstance(prompts[0], str):
            prompt_ids = [tok(text=prompt)["input_ids"] for prompt in prompts]
        else:
            encoded = tok.apply_chat_template(prompts, add_generation_prompt=True, tokenize=True, return_dict=True)
            prompt_ids = encoded["input_ids"]
        told = None if log_probs is None else [log_probs[: len(ids)] for ids in own]
        return {"prompt_ids": prompt_ids, "completion_ids": own, "logprobs": told}

    return rollout


def arguments(folder, rows=8, accumulation=1, **settings):
    """One rollout batch of 8 rows a step, over all ranks and micro-batches."""
    settings = {
        "per_device_train_batch_size": rows,
        "gradient_accumulation_steps": accumulation,
        "num_generations": 8,
        "max_completion_length": 24,
        "temperature": 0.7,
        "max_steps": 1,
        "learning_rate": 1.0,
        "lr_scheduler_type": "constant",
        "max_grad_norm": 0.0,
        "gradient_checkpointing": False,
        "shuffle_dataset": False,
        "use_cpu": True,
        "bf16": False,
        "report_to": "none",
        "save_strategy": "no",
        "logging_steps": 1,
        "disable_tqdm": True,
    } | settings
    return GRPOConfig(str(folder), **settings)


def sgd(model):
    return torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1.0), None


def make(folder, model=None, args=None, reward=judge, prompts=PROMPTS, rollout=None, plain_sgd=True, **settings):
    """A trainer; what is not an argument of `SDPOTrainer` goes to `SDPOConfig`. `rollout`: False samples for real."""
    own = {name: settings.pop(name) for name in ("peft_config", "callbacks", "eval_dataset") if name in settings}
    model = load() if model is None else model
    config = SDPOConfig(**({"distillation_topk": None, "teacher_mode": "frozen"} | settings))
    if plain_sgd and "peft_config" not in own:
        own["optimizers"] = sgd(model)
    return SDPOTrainer(
        model=model,
        args=arguments(folder) if args is None else args,
        sdpo_config=config,
        processing_class=tokenizer(),
        reward_funcs=reward,
        train_dataset=Dataset.from_list([{"prompt": prompt} for prompt in prompts]),
        rollout_func=None if rollout is False else rollout or write(),
        **own,
    )


def weights(model):
    return {name: p.detach().clone() for name, p in model.named_parameters()}


def gradient(folder, **options):
    """Minus what one step adds to each weight."""
    model = load()
    before = weights(model)
    trainer = make(folder, model=model, **options)
    trainer.train()
    return {name: before[name] - p.detach() for name, p in model.named_parameters()}, trainer


if __name__ == "__main__":
    folder, options = Path(sys.argv[1]), json.loads(sys.argv[2])
    args = arguments(folder / "run", **options.pop("arguments"))
    found, trainer = gradient(folder / "run", args=args, **options)
    if trainer.accelerator.is_main_process:
        torch.save({"gradient": found, "log": trainer.state.log_history[0]}, folder / "found.pt")
