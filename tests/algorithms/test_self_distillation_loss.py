"""The SDPO loss against recorded numbers, its limits and its refusals."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from verl.algorithms import SelfDistillationConfig, compute_self_distillation_loss
from verl.algorithms.aggregation import MODES
from verl.algorithms.ratio import bounded_weight
from verl.algorithms.self_distillation_loss import complete, divergence, kl_divergence

CASES = json.loads((Path(__file__).parents[1] / "fixtures" / "sdpo_loss.json").read_text())["cases"]
B, T, V = 3, 4, 11
MASK = torch.tensor([[1.0, 1, 1, 1], [1, 1, 1, 0], [1, 1, 0, 0]], dtype=torch.float64)


def closed_form_inputs():
    i = torch.arange(B * T * V, dtype=torch.float64).reshape(B, T, V)
    j = torch.arange(B * T, dtype=torch.float64).reshape(B, T)
    student = (2 * torch.sin(0.7 * i + 0.1)).requires_grad_()
    teacher = 2 * torch.sin(1.3 * i + 0.5)
    ids = (5 * j % 11).long()
    return student, teacher, ids, j


def arguments(config, student, teacher, ids):
    """Log-probs for a mode, from logits."""
    s, t = student.log_softmax(-1), teacher.log_softmax(-1)
    sampled = {
        "student_log_probs": s.gather(-1, ids[..., None]).squeeze(-1),
        "teacher_log_probs": t.gather(-1, ids[..., None]).squeeze(-1),
        "self_distillation_config": config,
    }
    if config.distillation_topk is None:
        return sampled | {"student_all_log_probs": s, "teacher_all_log_probs": t}
    top = s.topk(min(config.distillation_topk, s.shape[-1]), dim=-1).indices
    return sampled | {"student_topk_log_probs": s.gather(-1, top), "teacher_topk_log_probs": t.gather(-1, top)}


def run(config, student=None, mask=MASK, **more):
    logits, teacher, ids, _ = closed_form_inputs()
    student = logits if student is None else student
    loss, metrics = compute_self_distillation_loss(
        **arguments(config, student, teacher, ids), response_mask=mask, **more
    )
    loss.backward()
    return loss.item(), student.grad, metrics


def case_config(case):
    # any object with the documented fields will do, also one that lacks our own additions
    return SimpleNamespace(
        full_logit_distillation=case["full"],
        distillation_topk=case["topk"],
        distillation_add_tail=case["tail"],
        alpha=case["alpha"],
        is_clip=case["is_clip"],
    )


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["name"])
def test_recorded_case(case):
    student, _, ids, j = closed_form_inputs()
    sampled = student.log_softmax(-1).gather(-1, ids[..., None]).squeeze(-1).detach()
    more = {
        "old_log_probs": sampled + 0.3 * torch.cos(j),
        "loss_agg_mode": case["agg"],
        "self_distillation_mask": None if case["sd_mask"] is None else torch.tensor(case["sd_mask"]).double(),
        "rollout_is_weights": 1 + 0.5 * torch.sin(j) if case["rollout_is"] else None,
    }
    if case.get("error"):
        with pytest.raises(ValueError, match=r"alpha=0\.5"):
            run(case_config(case), student, **more)
        return
    loss, grad, _ = run(case_config(case), student, **more)
    assert loss == pytest.approx(case["loss"], abs=1e-8)
    assert grad.norm().item() == pytest.approx(case["grad_l2"], abs=1e-8)
    assert grad.abs().sum().item() == pytest.approx(case["grad_sum_abs"], abs=1e-8)


@pytest.mark.parametrize("alpha", [0.0, 0.3, 0.5, 1.0])
@pytest.mark.parametrize("add_tail", [True, False])
@pytest.mark.parametrize("topk", [V, V + 5])
def test_topk_of_everything_is_full(alpha, add_tail, topk):
    full = run(SelfDistillationConfig(alpha=alpha, distillation_topk=None, is_clip=None))
    config = SelfDistillationConfig(alpha=alpha, distillation_topk=topk, distillation_add_tail=add_tail, is_clip=None)
    loss, grad, _ = run(config)
    assert loss == pytest.approx(full[0], abs=1e-6)
    torch.testing.assert_close(grad, full[1], atol=1e-6, rtol=0)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("topk", [3, None])
def test_no_target_is_zero(mode, topk):
    config = SelfDistillationConfig(distillation_topk=topk, is_clip=None)
    loss, grad, metrics = run(config, loss_agg_mode=mode, self_distillation_mask=torch.zeros(B))
    assert loss == 0.0
    assert grad.abs().max() == 0
    assert metrics == {}


@settings(max_examples=25)
@given(padding=st.integers(0, 3), garbage=st.floats(-50, 0), mode=st.sampled_from(MODES[:3]))
def test_padding_changes_nothing(padding, garbage, mode):
    config = SelfDistillationConfig(distillation_topk=3, is_clip=None)
    _, teacher, ids, _ = closed_form_inputs()
    values = arguments(config, closed_form_inputs()[0].detach(), teacher, ids)
    expected, _ = compute_self_distillation_loss(**values, response_mask=MASK, loss_agg_mode=mode)

    def pad(x):
        if not isinstance(x, torch.Tensor):
            return x
        return torch.cat([x, torch.full((B, padding, *x.shape[2:]), garbage, dtype=x.dtype)], dim=1)

    padded = {name: pad(value) for name, value in values.items()}
    mask = torch.cat([MASK, torch.zeros(B, padding)], dim=1)
    loss, _ = compute_self_distillation_loss(**padded, response_mask=mask, loss_agg_mode=mode)
    torch.testing.assert_close(loss, expected, atol=1e-12, rtol=0)


@pytest.mark.parametrize("alpha", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("topk", [1, 3])
def test_certain_student_has_finite_tail_and_gradient(alpha, topk):
    student = torch.zeros(1, 1, V)
    student[..., :3] = torch.tensor([80.0, 79.0, 78.0])  # the rest has probability 0 in float32
    student.requires_grad_()
    top = student.log_softmax(-1)[..., :topk]
    teacher = torch.full((1, 1, topk), -3.0)
    loss = divergence(complete(top, True), complete(teacher, True), alpha).sum()
    loss.backward()
    assert loss.isfinite() and student.grad is not None and student.grad.isfinite().all()


def test_divergences_of_two_coins():
    p, q = torch.tensor([0.75, 0.25], dtype=torch.float64), torch.tensor([0.25, 0.75], dtype=torch.float64)
    kl = 0.5 * torch.log(torch.tensor(3.0, dtype=torch.float64))
    torch.testing.assert_close(kl_divergence(p.log(), q.log()), kl)
    jensen_shannon = 0.75 * torch.log(torch.tensor(1.5, dtype=torch.float64)) + 0.25 * torch.log(
        torch.tensor(0.5, dtype=torch.float64)
    )
    torch.testing.assert_close(divergence(p.log(), q.log(), 0.5), jensen_shannon)


@pytest.mark.parametrize(("near", "end"), [(1e-6, 0.0), (1 - 1e-6, 1.0)])
def test_normalized_divergence_tends_to_the_ends(near, end):
    student, teacher, _, _ = closed_form_inputs()
    s, t = student.detach().log_softmax(-1), teacher.log_softmax(-1)
    torch.testing.assert_close(divergence(s, t, near, normalize=True), divergence(s, t, end), atol=1e-4, rtol=0)
    assert divergence(s, t, near).max() < 1e-4 * divergence(s, t, end).max()


def test_token_credit_has_the_gradient_of_a_policy_gradient():
    config = SelfDistillationConfig(credit="token", alpha=1.0, advantage_clip=0.5, is_clip=None)
    student, teacher, ids, _ = closed_form_inputs()
    _, grad, _ = run(config, student)
    again = closed_form_inputs()[0]
    s = again.log_softmax(-1).gather(-1, ids[..., None]).squeeze(-1)
    t = teacher.log_softmax(-1).gather(-1, ids[..., None]).squeeze(-1)
    advantages = torch.minimum(t - s, torch.tensor(0.5)).detach()
    (-(advantages * s * MASK).sum() / MASK.sum()).backward()
    torch.testing.assert_close(grad, again.grad)


def test_sequence_credit_by_hand():
    config = SelfDistillationConfig(credit="sequence", alpha=1.0, is_clip=None)
    student = torch.tensor([[-1.0, -2.0, -9.0]], requires_grad=True)
    teacher = torch.tensor([[-2.0, -1.5, -0.1]])
    loss, metrics = compute_self_distillation_loss(student, teacher, torch.tensor([[1, 1, 0]]), config)
    loss.backward()
    advantage = (-1.0 + 0.5) / 2
    torch.testing.assert_close(student.grad, torch.tensor([[-advantage / 2, -advantage / 2, 0.0]]))
    assert metrics["self_distillation/divergence"] == pytest.approx((1.0 - 0.5) / 2)


def test_ratio_is_bounded_on_one_side_by_hand():
    config = SelfDistillationConfig(credit="token", alpha=1.0, is_clip=2.0)
    student = torch.tensor([[-1.0, -1.0, -1.0]])
    old = student - torch.log(torch.tensor([[4.0, 0.25, 1.0]]))
    teacher = torch.tensor([[0.0, 0.0, 0.0]])
    loss, metrics = compute_self_distillation_loss(student, teacher, torch.ones(1, 3), config, old)
    # (student - teacher) * student = 1 at each token
    assert loss.item() == pytest.approx((2 + 0.25 + 1) / 3)
    assert metrics["self_distillation/is_ratio_mean"] == pytest.approx((4 + 0.25 + 1) / 3)
    assert metrics["self_distillation/is_clip_fraction"] == pytest.approx(1 / 3)


def test_part_of_the_ratio_by_hand():
    config = SelfDistillationConfig(credit="token", alpha=1.0, is_clip=2.0, is_coef=0.4)
    student = torch.tensor([[-1.0, -1.0, -1.0]])
    old = student - torch.log(torch.tensor([[4.0, 0.25, 1.0]]))
    loss, metrics = compute_self_distillation_loss(student, torch.zeros(1, 3), torch.ones(1, 3), config, old)
    assert loss.item() == pytest.approx((1.4 + 0.7 + 1) / 3)  # 1 + 0.4 (2 - 1), 1 + 0.4 (0.25 - 1), 1
    assert metrics["self_distillation/is_ratio_mean"] == pytest.approx((4 + 0.25 + 1) / 3)


def test_the_whole_ratio_is_kept_to_the_last_bit():
    ratio = torch.tensor([1e-9, 0.1, 0.3, 1.7, 3.0])
    assert torch.equal(bounded_weight(ratio, 2.0), torch.tensor([1e-9, 0.1, 0.3, 1.7, 2.0]))
    assert torch.equal(bounded_weight(ratio, 2.0, 0.0), torch.ones(5))


def test_teacher_gets_no_gradient():
    teacher = torch.zeros(1, 2, 3, requires_grad=True)
    student = torch.zeros(1, 2, 3, requires_grad=True)
    config = SelfDistillationConfig(distillation_topk=None, is_clip=None)
    sampled = teacher.sum(-1), student.sum(-1)
    loss, _ = compute_self_distillation_loss(
        *sampled, torch.ones(1, 2), config, student_all_log_probs=student, teacher_all_log_probs=teacher
    )
    loss.backward()
    assert teacher.grad is None


@pytest.mark.parametrize(
    ("settings_", "message"),
    [
        ({"distillation_topk": 3, "is_clip": None}, "distillation_topk=3 needs student_topk_log_probs"),
        ({"distillation_topk": None, "is_clip": None}, "distillation_topk=None needs student_all_log_probs"),
        ({"credit": "token", "alpha": 1.0, "is_clip": 2.0}, "is_clip=2.0 needs old_log_probs"),
    ],
)
def test_missing_inputs_are_named(settings_, message):
    lp = torch.zeros(1, 2)
    with pytest.raises(ValueError, match=message):
        compute_self_distillation_loss(lp, lp, torch.ones(1, 2), SelfDistillationConfig(**settings_))


@pytest.mark.parametrize(
    ("settings_", "message"),
    [
        ({"credit": "token", "alpha": 0.5}, "alpha=0.5.*only for alpha=1.0"),
        ({"advantage_clip": 5.0}, "advantage_clip=5.0.*set credit"),
        ({"alpha": 1.5}, "alpha=1.5: must be between 0 and 1"),
    ],
)
def test_contradictions_are_refused(settings_, message):
    values = {"full_logit_distillation": True, "alpha": 0.5, "is_clip": None} | settings_
    lp = torch.zeros(1, 2)
    with pytest.raises(ValueError, match=message):
        compute_self_distillation_loss(lp, lp, torch.ones(1, 2), SimpleNamespace(**values))  # type: ignore[arg-type]
