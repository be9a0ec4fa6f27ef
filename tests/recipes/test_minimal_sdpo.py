"""The one-file SDPO: its loss against the library's definition and by hand, its sampler against one full forward."""

import math
import subprocess
import sys

import pytest
import torch

from recipes.embedded.task import splits
from recipes.minimal_sdpo import MinimalSDPO, Settings, generate, response_logits, sdpo_loss
from verl.algorithms import SelfDistillationConfig, compute_self_distillation_loss


@pytest.mark.parametrize("alpha", [0.0, 0.3, 0.5, 1.0])
@pytest.mark.parametrize("is_clip", [None, 1.2])
def test_loss_and_gradient_equal_the_library_definition(alpha, is_clip):
    generator = torch.Generator().manual_seed(0)
    student = torch.randn(3, 4, 7, generator=generator, requires_grad=True)
    teacher = torch.randn(3, 4, 7, generator=generator)
    ids = torch.randint(0, 7, (3, 4), generator=generator)
    mask = torch.tensor([[1.0, 1, 1, 0], [1, 1, 0, 0], [1, 1, 1, 1]])
    taught = torch.tensor([1.0, 0, 1])
    old = student.detach().log_softmax(-1).gather(-1, ids[..., None])[..., 0] - 0.4 * torch.rand(
        3, 4, generator=generator
    )
    plain = sdpo_loss(student, teacher, ids, mask * taught[:, None], old, alpha, is_clip)
    s, t = student.log_softmax(-1), teacher.log_softmax(-1)
    library, _ = compute_self_distillation_loss(
        s.gather(-1, ids[..., None])[..., 0],
        t.gather(-1, ids[..., None])[..., 0],
        mask,
        SelfDistillationConfig(distillation_topk=None, alpha=alpha, is_clip=is_clip),
        old_log_probs=old,
        student_all_log_probs=s,
        teacher_all_log_probs=t,
        self_distillation_mask=taught,
    )
    assert plain.item() == pytest.approx(library.item(), rel=1e-5)
    gradients = [torch.autograd.grad(loss, student, retain_graph=True)[0] for loss in (plain, library)]
    torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-7)


def test_jensen_shannon_of_two_coins_by_hand():
    student = torch.tensor([[[0.5, 0.5]]]).log()
    teacher = torch.tensor([[[0.9, 0.1]]]).log()
    m = (0.7, 0.3)
    expected = 0.5 * (0.5 * math.log(0.5 / m[0]) + 0.5 * math.log(0.5 / m[1]))
    expected += 0.5 * (0.9 * math.log(0.9 / m[0]) + 0.1 * math.log(0.1 / m[1]))
    loss = sdpo_loss(student, teacher, torch.tensor([[0]]), torch.ones(1, 1), None)
    assert loss.item() == pytest.approx(expected, rel=1e-5)


def test_no_taught_token_gives_zero_and_a_finite_gradient():
    student = torch.randn(1, 2, 5, requires_grad=True)
    loss = sdpo_loss(student, torch.randn(1, 2, 5), torch.zeros(1, 2, dtype=torch.long), torch.zeros(1, 2), None)
    loss.backward()
    assert loss.item() == 0 and student.grad is not None and torch.equal(student.grad, torch.zeros_like(student))


def test_sampler_log_probs_equal_one_full_forward_for_prompts_of_mixed_length():
    run = MinimalSDPO(Settings())
    texts = ["lamp in the attic to 3", "lamp", "oven in the office to 9\n\nCorrectly solve the original question."]
    prompts = [run.encode([{"role": "user", "content": text}]) for text in texts]
    written = list(generate(run.student, prompts, run.end, run.generator))
    with torch.no_grad():
        logits = response_logits(run.student, prompts, [ids for ids, _ in written])
    for row, (ids, log_probs) in zip(logits.log_softmax(-1), written, strict=True):
        expected = row[torch.arange(len(ids)), torch.tensor(ids)]
        torch.testing.assert_close(torch.tensor(log_probs), expected, atol=1e-4, rtol=0)


def test_a_few_steps_teach_the_training_prompts():
    torch.set_num_threads(1)
    run = MinimalSDPO(Settings(feedback="strong", lr=2e-3))
    questions = splits()["train"][:8]
    before = sum(sample.reward.score for sample in run.rollout(questions, 8)) / 64
    for _ in range(12):
        run.step(questions)
    after = sum(sample.reward.score for sample in run.rollout(questions, 8)) / 64
    assert after > before + 0.3


def test_command_line_runs(tmp_path):
    from recipes import minimal_sdpo

    command = [sys.executable, str(minimal_sdpo.__file__), "--steps", "1"]
    output = subprocess.run(command, check=True, capture_output=True, text=True, cwd=tmp_path).stdout
    assert "before: held-out mean@8 0." in output and "after:  held-out mean@8 0." in output
