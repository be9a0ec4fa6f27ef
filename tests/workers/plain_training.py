"""SDPO training written down plainly: transformers, one row at a time, no shards, no micro-batches, torch's AdamW."""

import copy

import torch
from torch.nn.utils.rnn import pad_sequence
from training_case import TEMPERATURE
from transformers import Qwen3ForCausalLM

from verl.algorithms import compute_self_distillation_loss
from verl.config import ActorRolloutRefConfig, SelfDistillationConfig
from verl.protocol import Row
from verl.trainer.assemble import choose_anchors

RATES = [0.15, 0.3, 0.3, 0.0]  # warm-up of 2 steps to 0.3, then half a cosine down to 0, of 4 steps in all


def logits_of(model, prompt: list[int], row: Row) -> torch.Tensor:
    """[T, V]"""
    ids = torch.tensor([prompt + row.response_ids])
    return model(ids).logits[0, len(prompt) - 1 : -1]


@torch.no_grad()
def target_of(student, teacher, frozen, row: Row, settings: SelfDistillationConfig) -> torch.Tensor:
    """[T, V] log-probs of the teacher."""
    prompt, rate = row.teacher_prompt_ids or row.prompt_ids, settings.teacher_update_rate
    target = logits_of(teacher, prompt, row)
    if settings.teacher_regularization == "trust-region":
        target = (1 - rate) * logits_of(frozen, prompt, row) + rate * logits_of(student, prompt, row)
    return (target / TEMPERATURE).log_softmax(-1)


def anchor_loss(student, teacher, frozen, rows: list[Row], settings: SelfDistillationConfig) -> torch.Tensor:
    """The self-anchor by its definition, token by token in probabilities; alpha is not at an end."""
    total, count = torch.zeros(()), 0
    chosen = choose_anchors(rows, settings.teacher_anchor_fraction, "")
    for row in [row for row in rows if row.index in chosen]:
        students = (logits_of(student, row.teacher_prompt_ids, row) / TEMPERATURE).softmax(-1)
        teachers = target_of(student, teacher, frozen, row, settings).exp()
        for s, t, bit in zip(students, teachers, row.response_mask, strict=True):
            if not bit:
                continue
            if settings.distillation_topk is not None:
                likely = s.detach().topk(settings.distillation_topk).indices
                s, t = (torch.cat([p[likely], 1 - p[likely].sum()[None]]) for p in (s, t))
            m = (1 - settings.alpha) * s + settings.alpha * t
            total = (
                total + (1 - settings.alpha) * (s * (s / m).log()).sum() + settings.alpha * (t * (t / m).log()).sum()
            )
            count += 1
    return settings.teacher_anchor_coef * total / max(count, 1)


def kl_to_frozen(student, frozen, rows: list[Row]) -> torch.Tensor:
    """Mean over all response tokens of exp(log q - log p) - 1 - (log q - log p), at most 10, on the plain prompts."""
    values = []
    for row in rows:
        ids = torch.tensor(row.response_ids)[:, None]
        logits = (logits_of(model, row.prompt_ids, row) / TEMPERATURE for model in (student, frozen))
        p, q = (values.log_softmax(-1).gather(1, ids)[:, 0] for values in logits)
        kl = (q.detach() - p).exp() - 1 - (q.detach() - p)
        values += [value.clamp(max=10) for value, bit in zip(kl, row.response_mask, strict=True) if bit]
    return torch.stack(values).mean()


def mini_batch_loss(student, teacher, frozen, rows: list[Row], config: ActorRolloutRefConfig) -> torch.Tensor:
    settings = config.actor.self_distillation
    columns = {"s": [], "t": [], "ids": [], "mask": []}
    for row in rows:
        columns["s"].append((logits_of(student, row.prompt_ids, row) / TEMPERATURE).log_softmax(-1))
        columns["t"].append(target_of(student, teacher, frozen, row, settings))
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
    if settings.teacher_anchor_coef:
        loss = loss + anchor_loss(student, teacher, frozen, rows, settings)
    if settings.kl_anchor_coef:
        loss = loss + settings.kl_anchor_coef * kl_to_frozen(student, frozen, rows)
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
