"""One side of step.py: TRL's `trl.experimental.sdpo.SDPOTrainer` on the same model, prompts, rewards and lengths.

Runs in an environment of its own (`step.py --trl-python`), which has trl and neither verl nor vllm, so it generates
with transformers, on one process with several threads or on several processes (gloo data parallelism). Precision,
divergence, K with the tail, teacher (EMA of every step), templates, optimizer and learning rate are ours; gradient
checkpointing, logging and checkpoints are off. TRL takes its own method's time: phases are measured around its methods.

Question: {"steps": n}.
"""

import json
import logging
import os
import sys
import time
from pathlib import Path

import torch
from coin_reward import coin
from datasets import Dataset
from sides import Channel
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
from trl.experimental.sdpo import SDPOConfig, SDPOTrainer

PHASES = {
    "gen": "sample_rollouts",
    "reward": "_calculate_rewards",
    "loss_forward": "compute_loss",
    "prepare": "_prepare_inputs",
    "training_step": "training_step",
}


class Turns(TrainerCallback):
    """Gives the word back to the benchmark after as many steps as it asked for."""

    def __init__(self, channel):
        self.channel = channel
        self.phases = {}
        self.steps, self.wanted, self.begin = [], 0, 0.0
        self.trainer = None

    def watch(self, trainer):
        """Time the trainer's methods."""
        self.trainer = trainer
        for phase, name in PHASES.items():
            setattr(trainer, name, self._timed(phase, getattr(trainer, name)))
        builder = trainer.teacher_context_builder
        builder.build = self._timed("reprompt", builder.build)

    def _timed(self, phase, method):
        def run(*args, **kwargs):
            begin = time.perf_counter()
            try:
                return method(*args, **kwargs)
            finally:
                self.phases[phase] = self.phases.get(phase, 0.0) + time.perf_counter() - begin

        return run

    def on_train_begin(self, args, state, control, **kwargs):
        self.channel.send({"engine": "transformers", "ranks": args.world_size, "threads": torch.get_num_threads()})
        self._wait(control)

    def on_step_end(self, args, state, control, **kwargs):
        self.steps.append(self._step(time.perf_counter() - self.begin))
        if len(self.steps) == self.wanted:
            self.channel.send({"steps": self.steps})
            self._wait(control)
        self.phases.clear()
        self.begin = time.perf_counter()

    def _wait(self, control):
        question = self.channel.receive()
        if question is None:
            control.should_training_stop = True
        else:
            self.steps, self.wanted = [], question["steps"]
        self.phases.clear()
        self.begin = time.perf_counter()

    def _step(self, seconds):
        metrics = {name: values[-1] for name, values in self.trainer._metrics["train"].items() if values}
        spent = dict(self.phases)
        backward = spent["training_step"] - spent["prepare"] - spent["loss_forward"]
        length = metrics["completions/mean_length"]
        self.trainer._metrics["train"].clear()
        return {
            "seconds": seconds,
            "phases": {
                "gen": spent["gen"],
                "reward": spent["reward"],
                "reprompt": spent["reprompt"],
                "loss_forward": spent["loss_forward"],
                "backward": backward,
                "optimizer_and_rest": seconds - spent["training_step"],
            },
            "tokens": round(length * self.trainer.args.generation_batch_size),
            "response_length": length,
            "taught": metrics["self_distillation/reprompt_sample_fraction"],
        }


def coin_rewards(prompts, completions, **kwargs):
    return [coin(completion[0]["content"]) for completion in completions]


def main():
    work = json.loads(Path(sys.argv[1]).read_text())
    logging.disable(logging.WARNING)
    torch.set_num_threads(work["threads"])
    world_size = int(os.environ.get("WORLD_SIZE", "1"))
    args = SDPOConfig(
        output_dir=str(Path(work["folder"]) / "output"),
        use_cpu=True,
        bf16=False,
        gradient_checkpointing=False,
        per_device_train_batch_size=work["prompts"] * work["samples"] // world_size,
        gradient_accumulation_steps=1,
        num_generations=work["samples"],
        num_iterations=1,
        max_prompt_length=64,
        max_completion_length=work["response"],
        temperature=1.0,
        learning_rate=1e-5,
        lr_scheduler_type="constant",
        weight_decay=0.01,
        max_grad_norm=1.0,
        max_steps=1_000_000,
        distillation_mode="topk_logits",
        distillation_topk=work["top_k"],
        distillation_add_tail=True,
        distillation_alpha=work["alpha"],
        teacher_model_kind="ema",
        teacher_update_rate=0.05,
        max_reprompt_len=256 + work["response"],
        success_reward_threshold=0.5,
        reprompt_template=work["reprompt_template"],
        solution_template=work["solution_template"],
        disable_tqdm=True,
        report_to=[],
        logging_strategy="no",
        save_strategy="no",
        dataloader_pin_memory=False,
        ddp_backend="gloo" if world_size > 1 else None,
        ddp_find_unused_parameters=False if world_size > 1 else None,
        seed=1,
    )
    turns = Turns(Channel())
    trainer = SDPOTrainer(
        model=AutoModelForCausalLM.from_pretrained(work["model"], dtype=torch.float32),
        reward_funcs=coin_rewards,
        args=args,
        train_dataset=Dataset.from_list([{"prompt": messages} for messages in work["messages"]]),
        processing_class=AutoTokenizer.from_pretrained(work["model"], padding_side="left"),
        callbacks=[turns],
    )
    turns.watch(trainer)
    trainer.train()


if __name__ == "__main__":
    main()
