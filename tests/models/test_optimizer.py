import pytest
import torch

from verl.config import OptimConfig
from verl.models.optimizer import clip_gradients, learning_rate, make_adamw


def rates(total=10, **options):
    return [learning_rate(OptimConfig(lr=1.0, **options), step, total) for step in range(total)]


def test_constant_after_linear_warm_up():
    assert rates(lr_warmup_steps=4) == pytest.approx([0.25, 0.5, 0.75] + [1.0] * 7)


def test_warm_up_as_a_share_of_all_steps():
    assert rates(lr_warmup_steps_ratio=0.2) == pytest.approx([0.5] + [1.0] * 9)
    assert rates(lr_warmup_steps=0, lr_warmup_steps_ratio=0.2) == [1.0] * 10


def test_linear_reaches_its_floor_at_the_last_step():
    expected = [0.5, 1.0, 1.0, 0.8, 0.6, 0.4, 0.2]
    assert rates(7, lr_scheduler_type="linear", lr_warmup_steps=2, min_lr_ratio=0.2) == pytest.approx(expected)


def test_cosine_is_halfway_in_the_middle():
    assert rates(5, lr_scheduler_type="cosine")[::2] == pytest.approx([1.0, 0.5, 0.0])


def test_schedule_stays_at_its_end_when_a_run_is_prolonged():
    config = OptimConfig(lr=1.0, lr_scheduler_type="cosine", min_lr_ratio=0.1)
    assert learning_rate(config, 50, 5) == pytest.approx(0.1)


def test_allocated_moments_change_no_step():
    ours, plain = (torch.nn.Parameter(torch.tensor([1.0, -2.0])) for _ in range(2))
    optimizers = [make_adamw([ours], OptimConfig(lr=0.1)), torch.optim.AdamW([plain], lr=0.1)]
    for parameter, optimizer in zip((ours, plain), optimizers, strict=True):
        for _ in range(3):
            parameter.grad = parameter.detach() * 2
            optimizer.step()
    torch.testing.assert_close(ours, plain)


def test_clip_returns_the_norm_before():
    parameter = torch.nn.Parameter(torch.zeros(2))
    parameter.grad = torch.tensor([3.0, 4.0])
    assert clip_gradients([parameter], 1.0) == pytest.approx(5.0)
    assert parameter.grad.tolist() == pytest.approx([0.6, 0.8], rel=1e-5)
