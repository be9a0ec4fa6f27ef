"""The teacher's weights against numbers worked out by hand."""

import math

import pytest
import torch

from verl.self_distillation.teacher import distance, ema_update_, squared_distance


def test_ema_by_hand_in_any_order():
    teacher = {"a": torch.tensor([1.0, 2.0]), "b": torch.tensor([[4.0]])}
    student = {"b": torch.tensor([[0.0]]), "a": torch.tensor([3.0, -2.0])}
    ema_update_(teacher.items(), student.items(), 0.25)
    assert teacher["a"].tolist() == [1.5, 1.0]
    assert teacher["b"].tolist() == [[3.0]]
    assert student["a"].tolist() == [3.0, -2.0]


def test_small_steps_of_a_bfloat16_student_reach_a_float32_teacher():
    teacher, student = torch.tensor([1.0]), torch.tensor([1.0078125], dtype=torch.bfloat16)  # one bfloat16 step up
    for _ in range(100):
        ema_update_([("w", teacher)], [("w", student)], 0.01)
    expected = 1.0078125 - 0.0078125 * 0.99**100
    assert teacher.item() == pytest.approx(expected, abs=1e-6)


def test_a_bfloat16_teacher_is_refused_because_it_would_stand_still():
    teacher = torch.tensor([1.0], dtype=torch.bfloat16)
    with pytest.raises(ValueError, match=r"layer.weight is torch.bfloat16.*float32"):
        ema_update_([("layer.weight", teacher)], [("layer.weight", torch.tensor([2.0]))], 0.01)
    ema_update_([("w", teacher)], [("w", torch.tensor([2.0]))], 1.0)
    assert teacher.item() == 2.0


def test_rates_zero_and_one_are_exact():
    teacher, student = torch.tensor([0.1, 1e8]), torch.tensor([math.nan, 0.3])
    ema_update_([("w", teacher)], [("w", student)], 0.0)
    assert teacher.tolist() == torch.tensor([0.1, 1e8]).tolist()
    ema_update_([("w", teacher)], [("w", torch.tensor([0.7, 0.3]))], 1.0)
    assert teacher.tolist() == torch.tensor([0.7, 0.3]).tolist()


def test_counters_follow_the_student():
    teacher, student = torch.tensor(3), torch.tensor(7)
    ema_update_([("num_batches", teacher)], [("num_batches", student)], 0.05)
    assert teacher.item() == 7


@pytest.mark.parametrize(
    ("student", "message"),
    [
        ({}, "w is missing in the student"),
        ({"w": torch.zeros(2), "x": torch.zeros(1)}, "x is missing in the teacher"),
        ({"w": torch.zeros(3)}, r"w has shape \[2\] in the teacher and \[3\] in the student"),
    ],
)
def test_a_different_model_is_refused_and_nothing_changes(student, message):
    teacher = {"w": torch.ones(2)}
    with pytest.raises(ValueError, match=message):
        ema_update_(teacher.items(), student.items(), 0.5)
    assert teacher["w"].tolist() == [1.0, 1.0]


def test_a_rate_outside_the_range_is_refused():
    with pytest.raises(ValueError, match=r"teacher_update_rate=1\.5"):
        ema_update_([], [], 1.5)


def test_distance_by_hand():
    teacher = [("a", torch.tensor([3.0, 0.0])), ("b", torch.tensor([1.0])), ("count", torch.tensor(9))]
    student = [("a", torch.tensor([0.0, 0.0])), ("b", torch.tensor([5.0])), ("count", torch.tensor(1))]
    assert squared_distance(teacher, student) == 25.0
    assert distance(teacher, student) == 5.0
