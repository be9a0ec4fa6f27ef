"""Projections against plain log_softmax."""

import dataclasses

import pytest
import torch

from verl.algorithms import Support
from verl.algorithms.projection import HiddenTerm, project_student, project_teacher

B, T, H, V, TEMPERATURE = 2, 4, 3, 7, 0.8
G = torch.Generator().manual_seed(0)
HIDDEN, TEACHER_HIDDEN = torch.randn(2, B, T, H, generator=G, dtype=torch.float64)
HEAD, TEACHER_HEAD = torch.randn(2, V, H, generator=G, dtype=torch.float64)
IDS = torch.randint(V, (B, T), generator=G)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_projection_is_log_softmax(dtype):
    hidden, head = HIDDEN.to(dtype), HEAD.to(dtype)
    result = project_student(hidden, head, IDS, TEMPERATURE, Support(3, True, True))
    precise = torch.promote_types(dtype, torch.float32)
    expected = (hidden.to(precise) @ head.to(precise).T / TEMPERATURE).log_softmax(-1)
    torch.testing.assert_close(result.all_log_probs, expected)
    torch.testing.assert_close(result.log_probs, expected.gather(-1, IDS[..., None]).squeeze(-1))
    torch.testing.assert_close(result.topk_log_probs, expected.topk(3).values)
    torch.testing.assert_close(result.entropy, torch.distributions.Categorical(logits=expected).entropy())


def test_unasked_parts_are_not_computed():
    result = project_student(HIDDEN, HEAD, IDS, 1.0, Support())
    given_ = {f.name for f in dataclasses.fields(result) if getattr(result, f.name) is not None}
    assert given_ == {"log_probs"}


def test_trust_region_mixes_logits_before_temperature():
    terms = [HiddenTerm(0.75, HIDDEN, HEAD), HiddenTerm(0.25, TEACHER_HIDDEN, TEACHER_HEAD)]
    top = torch.zeros(B, T, 1, dtype=torch.long)
    result = project_teacher(terms, IDS, TEMPERATURE, Support(topk=1), top)
    logits = 0.75 * HIDDEN @ HEAD.T + 0.25 * TEACHER_HIDDEN @ TEACHER_HEAD.T
    expected = (logits / TEMPERATURE).log_softmax(-1)
    torch.testing.assert_close(result.log_probs, expected.gather(-1, IDS[..., None]).squeeze(-1))
    torch.testing.assert_close(result.topk_log_probs, expected[..., :1])


def test_entropy_has_a_gradient_only_where_asked():
    head = HEAD.clone().requires_grad_()
    for wanted in (False, True):
        support = Support(needs_entropy=True, needs_entropy_grad=wanted)
        entropy = project_student(HIDDEN, head, IDS, 1.0, support).entropy
        assert entropy is not None and entropy.requires_grad is wanted


def test_greedy_temperature_is_refused():
    with pytest.raises(ValueError, match="temperature=0"):
        project_student(HIDDEN, HEAD, IDS, 0.0, Support())
