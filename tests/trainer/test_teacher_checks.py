"""The teacher-forced numbers of a real step, against transformers on the same texts."""

import pytest
import torch
from small_run import MODEL, compose_run
from transformers import AutoModelForCausalLM

from verl.trainer.listeners import BaseListener
from verl.trainer.rl_trainer import RLTrainer
from verl.trainer.roles import local_roles
from verl.trainer.run_data import load_run_data
from verl.trainer.teacher_checks import TeacherChecks
from verl.trainer.writing import Writing

DISTILLATION = "actor_rollout_ref.actor.self_distillation"
SCORER = """
def compute_score(data_source, solution_str, ground_truth, extra_info=None):
    good = sum(map(ord, solution_str)) % 4 == 0
    return {"score": float(good), "feedback": "" if good else f"unknown verb {solution_str[:5]}."}
"""


class Keep(BaseListener):
    def __init__(self):
        self.steps = []

    def after(self, step):
        self.steps.append(step)


def log_probs(folder, prompt, response):
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    logits = model(torch.tensor([[*prompt, *response]])).logits[0, len(prompt) - 1 : -1]
    return logits.log_softmax(-1).gather(1, torch.tensor(response)[:, None]).squeeze(1)


@torch.no_grad()
def expected(step, data, student, teacher):
    demos, lows = {}, []
    for sample, reprompt in zip(step.samples, step.reprompts, strict=True):
        messages, response = sample.prompt.messages, sample.rollout.response_ids
        if sample.reward.score == 1:
            text = (
                f"{messages[-1]['content']}\nCorrect solution:\n\n{sample.response_text}\n\n"
                "Correctly solve the original question."
            )
            demos.setdefault(sample.uid, (data.encode([{"role": "user", "content": text}]), response))
        elif "feedback from your" in reprompt.messages[-1]["content"]:
            told, untold = (
                log_probs(teacher, prompt, response) for prompt in (reprompt.token_ids, sample.rollout.prompt_ids)
            )
            lows.append((told - untold).min().item())

    def mean(folder):
        return sum(log_probs(folder, *demo).mean().item() for demo in demos.values()) / len(demos)

    assert len(demos) > 1 and len(lows) > 1
    return {
        "self_distillation/student_demo_log_prob": mean(student),
        "self_distillation/teacher_demo_log_prob": mean(teacher),
        "self_distillation/feedback_effect": sum(lows) / len(lows),
    }


def test_the_numbers_are_what_the_two_models_say(tmp_path):
    scorer = tmp_path / "own_scorer.py"
    scorer.write_text(SCORER)
    config = compose_run(
        tmp_path,
        f"custom_reward_function.path={scorer}",
        f"{DISTILLATION}.demo_log_prob_freq=2",
        f"{DISTILLATION}.teacher_update_rate=0.0",
        "actor_rollout_ref.actor.ppo_mini_batch_size=2",  # two updates: the rows carry old log-probs
        "actor_rollout_ref.actor.optim.lr=0.01",
        "trainer.total_training_steps=2",
    )
    data, keep = load_run_data(config), Keep()
    with local_roles(config, 4) as roles:
        trainer = RLTrainer(config, data, roles, Writing(config, data, roles, 0), 0)
        trainer.listeners = [TeacherChecks(config, roles.actor, data.encode), keep]
        trainer.fit()
        roles.actor.export_huggingface(str(tmp_path / "student"))
    first, last = keep.steps
    wanted = expected(last, data, tmp_path / "student", MODEL)
    assert {name: last.metrics[name] for name in wanted} == pytest.approx(wanted, abs=1e-4)
    assert wanted["self_distillation/student_demo_log_prob"] != pytest.approx(
        wanted["self_distillation/teacher_demo_log_prob"], abs=1e-2
    )
    assert not wanted.keys() & first.metrics.keys()  # every second step only
