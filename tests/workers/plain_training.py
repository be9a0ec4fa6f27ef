"""SDPO training written down plainly: transformers, one row at a time, no shards, no micro-batches, torch's AdamW."""

import copy

import torch
from torch.nn.utils.rnn import pad_sequence
from training_case import TEMPERATURE
from transformers import Qwen3ForCausalLM

from verl.algorithms import compute_self_distillation_loss
from verl.config import ActorRolloutRefConfig
from verl.protocol import Row

RATES = [0.15, 0.3, 0.3, 0.0]  # warm-up of 2 steps to 0.3, then half a cosine down to 0, of 4 steps in all


def logits_of(model, prompt: list[int], row: Row) -> torch.Tensor:
    """[T, V]"""
    ids = torch.tensor([prompt + row.response_ids])
    return model(ids).logits[0, len(prompt) - 1 : -1]


def mini_batch_loss(student, teacher, frozen, rows: list[Row], config: ActorRolloutRefConfig) -> torch.Tensor:
    settings = config.actor.self_distillation
    rate = settings.teacher_update_rate
    columns = {"s": [], "t": [], "ids": [], "mask": []}
    for row in rows:
        prompt = row.teacher_prompt_ids or row.prompt_ids
        with torch.no_grad():
            target = logits_of(teacher, prompt, row)
            if settings.teacher_regularization == "trust-region":
                target = (1 - rate) * logits_of(frozen, prompt, row) + rate * logits_of(student, prompt, row)
        columns["s"].append((logits_of(student, row.prompt_ids, row) / TEMPERATURE).log_softmax(-1))
        columns["t"].append((target / TEMPERATURE).log_softmax(-1))
        columns["ids"].append(torch.tensor(row.response_ids))
        columns["mask"].append(torch.tensor(row.response_mask).float())
    s, t, ids, mask = (pad_sequence(values, batch_first=True) for values in columns.values())
    support = {}
    if settings.distillation_topk is None:
        support = {"student_all_log_probs": s, "teacher_all_log_probs": t}
    else:
        top = s.detach().topk(min(settings.distillation_topk, s.shape[-1]), dim=-1).indices
        support = {"student_topk_log_probs": s.gather(-1, top), "teacher_topk_log_probs": t.gather(-1, top)}
    sampled = s.gather(-1, ids[..., None]).squeeze(-1)
    loss, _ = compute_self_distillation_loss(
        sampled,
        t.gather(-1, ids[..., None]).squeeze(-1),
        mask,
        settings,
        old_log_probs=sampled.detach(),
        self_distillation_mask=torch.tensor([float(row.is_taught) for row in rows]),
        **support,
    )
    return loss


def plain_training(path: str, rows: list[Row], config: ActorRolloutRefConfig, num_updates: int = 2) -> dict:
    """What `training_case.train` should give: weights of student and teacher by Hugging Face name."""
    student = Qwen3ForCausalLM.from_pretrained(path, dtype=torch.float32)
    teacher, frozen = copy.deepcopy(student).eval(), copy.deepcopy(student).eval()
    settings = config.actor.self_distillation
    optimizer = torch.optim.AdamW(student.parameters(), eps=0.1, weight_decay=0.01)
    rates = iter(RATES)
    for _ in range(num_updates):
        for batch in (rows[:3], rows[3:]):
            optimizer.zero_grad()
            mini_batch_loss(student, teacher, frozen, batch, config).backward()
            torch.nn.utils.clip_grad_norm_(student.parameters(), config.actor.grad_clip)
            optimizer.param_groups[0]["lr"] = next(rates)
            optimizer.step()
        if settings.teacher_regularization == "ema":
            rate = settings.teacher_update_rate
            for mine, theirs in zip(teacher.parameters(), student.parameters(), strict=True):
                mine.data = (1 - rate) * mine.data + rate * theirs.data
    return {
        "weights": {name: value.detach() for name, value in student.named_parameters(remove_duplicate=False)},
        "teacher": {name: value.detach() for name, value in teacher.named_parameters()},
    }
