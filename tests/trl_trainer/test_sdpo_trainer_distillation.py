"""The loss under its published names: hand-written numbers, the recorded cases, and plain definitions."""

import json
import math
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from sdpo_trainer.distillation import (
    add_tail_bucket,
    aggregate_loss,
    apply_importance_sampling_correction,
    compute_self_distillation_loss,
    top_k_kl_divergence,
)

from verl.algorithms import SelfDistillationConfig
from verl.algorithms import compute_self_distillation_loss as trainer_loss

CASES = json.loads((Path(__file__).parents[1] / "fixtures" / "sdpo_loss.json").read_text())["cases"]
RECORDED = [
    case
    for case in CASES
    if case["agg"] == "token-mean" and not case.get("error") and (case["topk"] is not None or not case["full"])
]
B, T, V = 3, 4, 11
MASK = torch.tensor([[1, 1, 1, 1], [1, 1, 1, 0], [1, 1, 0, 0]])


def logs(*rows):
    return torch.tensor(rows, dtype=torch.float64).log()[None]  # [1, T, K]


def closed_form():
    """The recorded cases' inputs, as their file describes them, with the full vocabulary's logits as a leaf."""
    i = torch.arange(B * T * V, dtype=torch.float64).reshape(B, T, V)
    j = torch.arange(B * T, dtype=torch.float64).reshape(B, T)
    student = (2 * torch.sin(0.7 * i + 0.1)).requires_grad_()
    s, t = student.log_softmax(-1), (2 * torch.sin(1.3 * i + 0.5)).log_softmax(-1)
    ids, top = (5 * j % 11).long()[..., None], s.topk(3, dim=-1).indices
    sampled = {"student_log_probs": s.gather(-1, ids)[..., 0], "teacher_log_probs": t.gather(-1, ids)[..., 0]}
    topk = {"student_topk_log_probs": s.gather(-1, top), "teacher_topk_log_probs": t.gather(-1, top)}
    return student, sampled, topk, j


@pytest.mark.parametrize("mask", [MASK, MASK.bool(), MASK.float()], ids=["int", "bool", "float32"])
@pytest.mark.parametrize("case", RECORDED, ids=lambda case: case["name"])
def test_recorded_case(case, mask):
    student, sampled, topk, j = closed_form()
    loss, metrics = compute_self_distillation_loss(
        **sampled,
        response_mask=mask,
        **(topk if case["full"] else {}),
        alpha=case["alpha"],
        is_clip=case["is_clip"],
        add_tail=case["tail"],
        old_log_probs=sampled["student_log_probs"].detach() + 0.3 * torch.cos(j),
        self_distillation_mask=None if case["sd_mask"] is None else torch.tensor(case["sd_mask"]),
        rollout_is_weights=1 + 0.5 * torch.sin(j) if case["rollout_is"] else None,
    )
    loss.backward()
    assert loss.item() == pytest.approx(case["loss"], abs=1e-8)
    assert student.grad.norm().item() == pytest.approx(case["grad_l2"], abs=1e-8)
    assert student.grad.abs().sum().item() == pytest.approx(case["grad_sum_abs"], abs=1e-8)
    assert metrics["sdpo/loss"] == loss.item()
    assert metrics["sdpo/teacher_coverage"] == pytest.approx(sum(case["sd_mask"] or [1, 1, 1]) / 3)


def test_recorded_cases_are_there():
    assert len(RECORDED) == 8  # the others are of the whole vocabulary, of another mean, and an error


def test_it_is_the_distributed_trainers_loss_on_the_same_tensors():
    found = {}
    for name in ("here", "there"):
        student, sampled, topk, j = closed_form()
        more = {"old_log_probs": sampled["student_log_probs"].detach() + torch.cos(j)}
        more["self_distillation_mask"] = torch.tensor([1.0, 0.0, 1.0], dtype=torch.float64)
        if name == "here":
            loss, _ = compute_self_distillation_loss(**sampled, response_mask=MASK, **topk, alpha=0.3, **more)
        else:
            config = SelfDistillationConfig(distillation_topk=3, alpha=0.3)
            loss, _ = trainer_loss(
                **sampled, response_mask=MASK.double(), self_distillation_config=config, **topk, **more
            )
        loss.backward()
        found[name] = loss.detach(), student.grad
    assert torch.equal(found["here"][0], found["there"][0]) and torch.equal(found["here"][1], found["there"][1])


def test_the_tail_is_what_is_missing_to_one():
    found = add_tail_bucket(logs([0.5, 0.3], [0.1, 0.1]))
    torch.testing.assert_close(found.exp(), torch.tensor([[[0.5, 0.3, 0.2], [0.1, 0.1, 0.8]]], dtype=torch.float64))


@pytest.mark.parametrize(
    ("alpha", "add_tail", "expected"),
    [
        # student .5 .3 (.2), teacher .25 .25 (.5)
        (0.0, True, 0.25 * math.log(0.25 / 0.5) + 0.25 * math.log(0.25 / 0.3) + 0.5 * math.log(0.5 / 0.2)),
        (1.0, True, 0.5 * math.log(0.5 / 0.25) + 0.3 * math.log(0.3 / 0.25) + 0.2 * math.log(0.2 / 0.5)),
        # renormalised: .625 .375 and .5 .5
        (0.0, False, 0.5 * math.log(0.5 / 0.625) + 0.5 * math.log(0.5 / 0.375)),
        (1.0, False, 0.625 * math.log(0.625 / 0.5) + 0.375 * math.log(0.375 / 0.5)),
        # alpha = .25: the mixture is .75 student + .25 teacher = .59375 .40625
        (
            0.25,
            False,
            0.75 * (0.625 * math.log(0.625 / 0.59375) + 0.375 * math.log(0.375 / 0.40625))
            + 0.25 * (0.5 * math.log(0.5 / 0.59375) + 0.5 * math.log(0.5 / 0.40625)),
        ),
    ],
)
def test_divergence_by_hand(alpha, add_tail, expected):
    teacher = logs([0.25, 0.25], [0.5, 0.3]).requires_grad_()
    student = logs([0.5, 0.3], [0.5, 0.3]).requires_grad_()
    found = top_k_kl_divergence(student, teacher, alpha, add_tail)
    assert found.tolist() == [[pytest.approx(expected, abs=1e-12), pytest.approx(0.0, abs=1e-12)]]
    found.sum().backward()
    assert teacher.grad is None and student.grad is not None


def test_defaults_are_jensen_shannon_with_a_tail():
    student, teacher = logs([0.5, 0.3]), logs([0.25, 0.25])
    explicit = top_k_kl_divergence(student, teacher, alpha=0.5, add_tail=True)
    assert torch.equal(top_k_kl_divergence(student, teacher), explicit)


def test_ratio_is_bounded_and_without_gradient():
    student = torch.tensor([[-1.0, -1.0, -1.0]], requires_grad=True)
    old = student.detach() - torch.log(torch.tensor([[4.0, 0.25, 1.0]]))
    loss = torch.full((1, 3), 2.0, requires_grad=True)
    found = apply_importance_sampling_correction(loss, student, old)
    torch.testing.assert_close(found, torch.tensor([[4.0, 0.5, 2.0]]))
    found.sum().backward()
    assert student.grad is None
    assert apply_importance_sampling_correction(loss, student, None) is loss
    assert apply_importance_sampling_correction(loss, student, old, None) is loss


def test_mean_is_over_taught_tokens_alone():
    """Rows without a target do not shrink the signal, and what stands outside of the mask is not read."""
    losses = torch.tensor([[1.0, 3.0], [100.0, 100.0], [5.0, float("nan")]])
    mask = torch.tensor([[1, 1], [1, 1], [1, 0]])
    assert aggregate_loss(losses, mask, torch.tensor([1.0, 0.0, 1.0])).item() == 3.0
    assert aggregate_loss(losses, mask).item() == pytest.approx(209 / 5)


def test_nothing_taught_is_zero_with_a_graph():
    losses = torch.tensor([[1.0, 3.0]], requires_grad=True)
    for loss in (
        aggregate_loss(losses, torch.zeros(1, 2)),
        aggregate_loss(losses, torch.ones(1, 2), torch.zeros(1)),
        compute_self_distillation_loss(losses, torch.zeros(1, 2), torch.zeros(1, 2))[0],
    ):
        losses.grad = None
        loss.backward()
        assert loss.item() == 0.0 and torch.equal(losses.grad, torch.zeros(1, 2))
    _, metrics = compute_self_distillation_loss(losses, torch.zeros(1, 2), torch.zeros(1, 2))
    assert metrics == {"sdpo/loss": 0.0, "sdpo/kl_mean": 0.0, "sdpo/teacher_coverage": 1.0}


def test_sampled_token_path_by_hand():
    """loss = ratio (s - t) s with the first two factors constant; the mean divergence has no ratio in it."""
    student = torch.tensor([[-1.0, -2.0]], requires_grad=True)
    teacher = torch.tensor([[-2.0, -1.5]])
    old = student.detach() - torch.log(torch.tensor([[3.0, 0.5]]))
    loss, metrics = compute_self_distillation_loss(student, teacher, torch.ones(1, 2), old_log_probs=old)
    loss.backward()
    torch.testing.assert_close(student.grad, torch.tensor([[2 * 1.0 / 2, 0.5 * -0.5 / 2]]))
    assert loss.item() == pytest.approx((2 * 1.0 * -1.0 + 0.5 * -0.5 * -2.0) / 2)
    assert metrics["sdpo/kl_mean"] == pytest.approx((1.0 - 0.5) / 2)


def test_without_old_log_probs_the_ratio_is_one():
    _, sampled, topk, _ = closed_form()
    found, _ = compute_self_distillation_loss(**sampled, response_mask=MASK, **topk)
    assert found.item() == pytest.approx(CASES[0]["loss"], abs=1e-8)


def test_kl_mean_has_no_weights_and_loss_has():
    _, sampled, topk, _ = closed_form()
    weights = torch.full((B, T), 3.0, dtype=torch.float64)
    _, metrics = compute_self_distillation_loss(**sampled, response_mask=MASK, **topk, rollout_is_weights=weights)
    assert metrics["sdpo/kl_mean"] == pytest.approx(CASES[0]["loss"], abs=1e-8)
    assert metrics["sdpo/loss"] == pytest.approx(3 * CASES[0]["loss"], abs=1e-7)


def test_missing_and_wrong_arguments_are_named():
    _, sampled, topk, _ = closed_form()
    student = sampled["student_log_probs"]
    with pytest.raises(TypeError, match="teacher_log_probs=None"):
        compute_self_distillation_loss(student, None, MASK)
    with pytest.raises(ValueError, match="needs teacher_topk_log_probs"):
        compute_self_distillation_loss(student, None, MASK, topk["student_topk_log_probs"])
    with pytest.raises(ValueError, match=r"alpha=1\.5: must be between 0 and 1"):
        compute_self_distillation_loss(**sampled, response_mask=MASK, alpha=1.5)
    with pytest.raises(ValueError, match=r"alpha=-1\.0"):
        top_k_kl_divergence(*topk.values(), alpha=-1.0)
    with_topk, _ = compute_self_distillation_loss(student, None, MASK, **topk)
    assert with_topk.item() == pytest.approx(CASES[0]["loss"], abs=1e-8)


def test_it_is_imported_without_trl():
    code = "import sys; sys.modules['trl'] = None; import sdpo_trainer.distillation"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
