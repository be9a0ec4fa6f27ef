import itertools

import pytest
import torch
from tiny_lms import rows_of_all_kinds

from verl.models.packing import pack
from verl.prefixes import num_packed_tokens, prefix_order
from verl.protocol import Row

CPU = torch.device("cpu")
LAST = 77
"""The last token of responses: it predicts nothing, so that no forward runs it."""


def row(prompt, response):
    return Row(prompt, [*response, LAST], [1] * (len(response) + 1))


ROWS = [row([5, 6], [7, 8, 9]), row([4], [3]), row([5, 6], [7, 2])]


def sequence(row):
    return row.prompt_ids + row.response_ids[:-1]


def distinct_prefixes(sequences):
    return {tuple(s[:length]) for s in sequences for length in range(1, len(s) + 1)}


def test_order_and_shared_beginnings():
    assert prefix_order([[2, 1], [1, 2, 3], [1, 2], [1, 2, 3], [1, 9]]) == ([2, 1, 3, 4, 0], [0, 2, 3, 1, 0])
    assert prefix_order([]) == ([], [])


@pytest.mark.parametrize("seed", range(5))
def test_packed_tokens_are_the_distinct_prefixes(seed):
    rows = rows_of_all_kinds(seed)
    sequences = [sequence(row) for row in rows]
    assert num_packed_tokens(sequences) == pack(rows, CPU).num_tokens == len(distinct_prefixes(sequences))
    assert pack(rows, CPU, share_prefixes=False).num_tokens == sum(map(len, sequences))


def test_a_group_runs_its_prompt_once():
    rows = [row([1, 2, 3, 4], [10 + n] * n) for n in (2, 5, 1)]
    assert pack(rows, CPU).num_tokens == 4 + 2 + 5 + 1


def test_packed_by_hand():
    packed = pack(ROWS, CPU)
    assert packed.input_ids.tolist() == [[4, 3, 5, 6, 7, 2, 8, 9]]
    assert packed.position_ids.tolist() == [[0, 1, 0, 1, 2, 3, 3, 4]]
    assert packed.predictors.tolist() == [3, 4, 6, 7, 0, 1, 3, 4, 5]
    assert [line.tokens.tolist() for line in packed.layout.lines] == [[0, 1], [2, 3, 4, 5], [2, 3, 4, 6, 7]]
    assert packed.layout.joined.query_starts.tolist() == [0, 2, 6, 8]
    assert packed.layout.joined.key_starts.tolist() == [0, 2, 6, 11]
    assert packed.layout.joined.keys.tolist() == [0, 1, 2, 3, 4, 5, 2, 3, 4, 6, 7]
    assert (packed.layout.joined.max_queries, packed.layout.joined.max_keys) == (4, 5)
    tables = packed.layout.padded
    sizes = [(len(r.lines), r.num_queries, r.num_keys) for r in tables.rectangles]
    assert sizes == [(2, 4, 4), (1, 2, 5)]  # of the last line 3 tokens are not new, and do not ask
    assert tables.queries.tolist() == [2, 3, 4, 5, 0, 1, 0, 0, 6, 7]
    assert tables.keys.tolist() == [2, 3, 4, 5, 0, 1, 0, 0, 2, 3, 4, 6, 7]
    assert tables.places.tolist() == [4, 5, 0, 1, 2, 3, 8, 9]


def test_masks_by_hand():
    """Lines of 5 and 3 tokens, of which the last 2 and the last one are new."""
    rows = [row([1, 2, 3], [4, 5]), row([1, 2, 3], [6, 7]), row([1, 2], [8])]
    layout = pack(rows, CPU).layout
    whole, part = layout.padded.rectangles
    no = -torch.inf
    assert layout.mask(whole, None, torch.float32) is None and layout.mask(whole, 5, torch.float32) is None
    assert layout.mask(part, None, torch.float32).tolist() == [
        [[[0, 0, 0, 0, no], [0, 0, 0, 0, 0]]],
        [[[0, 0, 0, no, no], [0, 0, 0, 0, no]]],
    ]
    assert layout.mask(part, 3, torch.float32).tolist() == [
        [[[no, 0, 0, 0, no], [no, no, 0, 0, 0]]],
        [[[0, 0, 0, no, no], [no, 0, 0, 0, no]]],
    ]
    assert layout.mask(whole, 2, torch.float32)[0, 0, 2].tolist() == [no, 0, 0, no, no]


def test_padding_always_sees_something():
    """Or its softmax, and with it every gradient, would be nan: a line with few new tokens beside one with many."""
    rows = [row([1] * 9 + [n], [n] * n) for n in (2, 3, 9)] + [row([1] * 9 + [8], [4])]
    layout = pack(rows, CPU).layout
    for rectangle in layout.padded.rectangles:
        mask = layout.mask(rectangle, 2, torch.float32)
        assert mask is None or (mask == 0).any(dim=-1).all()


def test_padded_by_hand():
    padded = pack(ROWS, CPU, remove_padding=False)
    assert padded.input_ids.tolist() == [[5, 6, 7, 8, 9], [4, 3, 0, 0, 0], [5, 6, 7, 2, 0]]
    assert padded.position_ids.tolist() == [[0, 1, 2, 3, 4]] * 3
    assert padded.predictors.tolist() == [1, 2, 3, 4, 5, 6, 11, 12, 13]
    assert padded.layout is None and padded.num_tokens == 15


OPTIONS = [
    {"for_teacher": teacher, "remove_padding": packed, "share_prefixes": shared}
    for teacher, packed, shared in itertools.product([False, True], repeat=3)
]


@pytest.mark.parametrize("options", OPTIONS)
def test_predictors_stand_before_what_they_predict(options):
    """Walking from a row's start to each of its predictors spells what came before the token."""
    rows = rows_of_all_kinds()
    found = pack(rows, CPU, **options)
    ids, positions = found.input_ids.flatten(), found.position_ids.flatten()
    predictors = iter(found.predictors.tolist())
    for row in rows:
        prompt = row.teacher_prompt_ids if options["for_teacher"] else row.prompt_ids
        for position, _ in enumerate(row.response_ids, len(prompt) - 1):
            token = next(predictors)
            assert ids[token] == (prompt + row.response_ids)[position] and positions[token] == position
    assert next(predictors, None) is None


@pytest.mark.parametrize("share_prefixes", [True, False])
def test_lines_hold_every_row_and_place_every_token(share_prefixes):
    rows = rows_of_all_kinds()
    packed = pack(rows, CPU, share_prefixes=share_prefixes)
    spelled = [packed.input_ids[0, line.tokens].tolist() for line in packed.layout.lines]
    assert all(any(line[: len(s)] == s for line in spelled) for s in map(sequence, rows))
    for line in packed.layout.lines:
        assert packed.position_ids[0, line.tokens].tolist() == list(range(len(line.tokens)))
    tables = packed.layout.padded
    assert torch.equal(tables.queries[tables.places], torch.arange(packed.num_tokens))
    new = [token for line in packed.layout.lines for token in line.tokens[-line.num_new :].tolist()]
    assert new == list(range(packed.num_tokens))


@pytest.mark.parametrize("remove_padding", [True, False])
def test_no_rows_give_one_token_that_predicts_nothing(remove_padding):
    empty = pack([], CPU, remove_padding=remove_padding)
    assert empty.input_ids.tolist() == [[0]] and empty.position_ids.tolist() == [[0]]
    assert empty.predictors.tolist() == [] and empty.predictors.dtype == torch.long


def test_empty_prompt_is_refused_by_name():
    with pytest.raises(ValueError, match="Row 3 has an empty teacher prompt"):
        pack([Row([1], [2], [1], index=3)], CPU, for_teacher=True)
