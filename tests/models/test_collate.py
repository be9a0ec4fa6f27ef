import pytest
import torch

from verl.models.collate import collate, pad_per_token
from verl.protocol import Row

CPU = torch.device("cpu")
ROWS = [
    Row([5, 6], [7, 8, 9], [1, 0, 1], teacher_prompt_ids=[1, 2, 3]),
    Row([4], [3], [1], teacher_prompt_ids=[2]),
]


def test_rows_are_padded_on_the_right():
    batch = collate(ROWS, CPU)
    assert batch.input_ids.tolist() == [[5, 6, 7, 8, 9], [4, 3, 0, 0, 0]]
    assert batch.response_ids.tolist() == [[7, 8, 9], [3, 0, 0]]
    assert batch.response_mask.tolist() == [[1, 0, 1], [1, 0, 0]]
    assert batch.response_positions.tolist() == [[1, 2, 3], [0, 1, 2]]


def test_the_token_after_each_position_is_the_response_token():
    batch = collate(ROWS, CPU, for_teacher=True, num_response_tokens=4)
    assert batch.input_ids.tolist() == [[1, 2, 3, 7, 8, 9], [2, 3, 0, 0, 0, 0]]
    for row, length in enumerate((3, 1)):
        following = batch.input_ids[row, batch.response_positions[row, :length] + 1]
        assert torch.equal(following, batch.response_ids[row, :length])
    assert batch.response_ids.shape == batch.response_mask.shape == (2, 4)


def test_no_rows_give_one_uncounted_token():
    batch = collate([], CPU)
    assert batch.input_ids.tolist() == [[0]] and batch.response_mask.tolist() == [[0]]


def test_an_empty_response_stays_inside_the_sequence():
    batch = collate([Row([5, 6], [], [])], CPU)
    assert batch.response_positions.tolist() == [[1]] and batch.response_mask.sum() == 0


def test_empty_prompt_is_refused_by_name():
    with pytest.raises(ValueError, match="Row 3 has an empty teacher prompt"):
        collate([Row([1], [2], [1], index=3)], CPU, for_teacher=True)


def test_per_token_values_come_from_all_rows_or_none():
    assert pad_per_token([[], []], 2, "advantages", CPU) is None
    assert pad_per_token([[0.5], [1.0, 2.0]], 3, "advantages", CPU).tolist() == [[0.5, 0, 0], [1, 2, 0]]
    with pytest.raises(ValueError, match="advantages"):
        pad_per_token([[0.5], []], 3, "advantages", CPU)
