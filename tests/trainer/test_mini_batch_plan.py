"""The plan of a mini-batch: what every rank must agree on, on random batches and on small ones."""

import random
from dataclasses import replace
from itertools import chain

import pytest

from verl.config.forwards import ForwardLimits
from verl.prefixes import num_packed_tokens
from verl.protocol import MaskTotals, Row, count_totals, plan_mini_batch
from verl.trainer.assemble import choose_anchors

LIMITS = [
    ForwardLimits(),
    ForwardLimits(3),
    ForwardLimits(max_tokens=60),
    ForwardLimits(max_tokens=200),
    ForwardLimits(max_tokens=60, share_prefixes=False),
    ForwardLimits(max_tokens=60, remove_padding=False),
    ForwardLimits(2, remove_padding=False),
]


def make_rows(seed, num_groups=6, group_size=4):
    """Groups with long and short prompts; some rows have a target."""
    source = random.Random(seed)

    def ids(low, high):
        return [source.randrange(9) for _ in range(source.randint(low, high))]

    rows = []
    for _ in range(num_groups):
        prompt, reprompt = ids(1, 30), ids(5, 40)
        for _ in range(source.randint(1, group_size)):
            response = ids(0, 25)
            teacher = reprompt + ids(0, 3) if source.random() < 0.6 else []
            rows.append(Row(prompt, response, [1] * len(response), teacher_prompt_ids=teacher, index=len(rows)))
    return rows


def sequences(rows, for_teacher=False):
    return [(row.teacher_prompt_ids if for_teacher else row.prompt_ids) + row.response_ids[:-1] for row in rows]


def forward_tokens(some, limits):
    """By its definition: distinct beginnings, all tokens, or a rectangle."""
    if not limits.remove_padding:
        return len(some) * max(map(len, some), default=0)
    return (
        len({tuple(s[: i + 1]) for s in some for i in range(len(s))}) if limits.share_prefixes else sum(map(len, some))
    )


@pytest.mark.parametrize("limits", LIMITS, ids=str)
@pytest.mark.parametrize("world_size", [1, 2, 5])
@pytest.mark.parametrize("seed", range(6))
def test_every_plan(seed, world_size, limits):
    rows = make_rows(seed)
    teacher_limits = LIMITS[seed % len(LIMITS)]
    plan = plan_mini_batch(rows, world_size, limits, teacher_limits)
    assert plan == plan_mini_batch(rows, world_size, limits, teacher_limits)
    taught = [row.index for row in rows if row.is_taught]
    for kind, wanted, used in (
        ("micro_batches", range(len(rows)), limits),
        ("teacher_packs", taught, teacher_limits),
    ):
        ranks = [getattr(part, kind) for part in plan]
        assert sorted(row.index for row in chain(*chain(*ranks))) == list(wanted)  # each row once
        assert len({len(forwards) for forwards in ranks}) == 1
        for forwards in ranks:
            num_empty = sum(not forward for forward in forwards)
            assert num_empty == max(0, len(forwards) - sum(map(len, forwards)))
            for forward in filter(None, forwards):
                if used.max_tokens is not None:
                    size = forward_tokens(sequences(forward, kind == "teacher_packs"), used)
                    assert len(forward) == 1 or size <= used.max_tokens
                elif used.max_rows is not None:
                    assert len(forward) <= used.max_rows
    for part in plan:  # the teacher of a row runs where the row is learnt
        own = {row.index for row in chain(*part.micro_batches) if row.is_taught}
        assert {row.index for row in chain(*part.teacher_packs)} == own
        assert part.totals == count_totals(rows)


@pytest.mark.parametrize("limits", LIMITS, ids=str)
@pytest.mark.parametrize("world_size", [1, 2, 5])
@pytest.mark.parametrize("seed", range(4))
def test_anchors_are_the_same_for_every_cut_and_stay_with_their_rows(seed, world_size, limits):
    rows = make_rows(seed)
    taught = {row.index for row in rows if row.is_taught}
    chosen = choose_anchors(rows, 0.25, str(seed))
    assert chosen < taught and len(chosen) == max(1, round(len(taught) / 4))
    plan = plan_mini_batch(rows, world_size, limits, ForwardLimits(), anchored=chosen)
    anchors = [row for part in plan for row in chain(*part.micro_batches) if row.is_anchor]
    assert sorted(row.index for row in anchors) == sorted(chosen)
    assert all(row.prompt_ids == row.teacher_prompt_ids == rows[row.index].teacher_prompt_ids for row in anchors)
    lengths = [len(rows[index].response_ids) for index in chosen]
    assert plan[0].totals.anchored == MaskTotals(sum(lengths), sum(length > 0 for length in lengths))
    assert plan[0].totals.response == count_totals(rows).response and plan[0].totals.taught == count_totals(rows).taught
    for part in plan:
        assert len(part.micro_batches) == len(plan[0].micro_batches)
        own = {row.index for row in chain(*part.micro_batches) if not row.is_anchor}
        assert {row.index for row in chain(*part.micro_batches) if row.is_anchor} <= own
        for forward in part.micro_batches:
            if limits.max_tokens is not None and len(forward) > 1:
                assert forward_tokens(sequences(forward), limits) <= limits.max_tokens


def test_anchors_are_chosen_by_the_seed_alone():
    rows = make_rows(0)
    chosen = [choose_anchors(rows, 0.5, seed) for seed in ("a", "b", "a")]
    assert chosen[0] == chosen[2] != chosen[1]
    assert choose_anchors(rows, 1.0, "a") == {row.index for row in rows if row.is_taught}
    assert choose_anchors(rows, 0.0, "a") == set()
    assert choose_anchors([row for row in rows if not row.is_taught], 0.5, "a") == set()


def index_lists(forwards):
    return [[row.index for row in rows] for rows in forwards]


def test_rows_in_no_loss_are_counted_but_not_run():
    rows = make_rows(1)
    plan = plan_mini_batch(rows, 2, teacher_limits=ForwardLimits(), keep_untaught=False)
    assert all(row.is_taught for part in plan for row in chain(*part.micro_batches))
    assert plan[0].totals == count_totals(rows)


def test_nothing_to_teach_means_no_teacher_forward():
    rows = [Row([1], [2], [1], index=i) for i in range(4)]
    assert [part.teacher_packs for part in plan_mini_batch(rows, 2, teacher_limits=ForwardLimits())] == [[], []]
    assert plan_mini_batch([], 2)[1].micro_batches == []


def group(prompt, num_rows, start, length=2):
    return [Row([prompt] * 20, [40 + start + i] * length, [1] * length, index=start + i) for i in range(num_rows)]


def test_groups_stay_together_where_that_is_as_balanced():
    rows = group(1, 4, 0) + group(2, 4, 4)
    random.Random(0).shuffle(rows)
    parts = [{row.index for row in chain(*part.micro_batches)} for part in plan_mini_batch(rows, 2)]
    assert parts in ([{0, 1, 2, 3}, {4, 5, 6, 7}], [{4, 5, 6, 7}, {0, 1, 2, 3}])


def test_one_large_group_is_shared_out():
    plan = plan_mini_batch(group(1, 6, 0, length=30), 2)
    assert [num_packed_tokens(sequences(chain(*part.micro_batches))) for part in plan] == [
        20 + 3 * 29
    ] * 2  # the last token is not run


def test_a_backward_counts_and_so_does_the_teacher():
    """Row 0 costs 3 x 3 + 27 tokens of a forward, the others 3 x 3 each: 36 against three of 9."""
    rows = [Row([i, 1], [2, 3], [1, 1], teacher_prompt_ids=[9] * 26 if i == 0 else [], index=i) for i in range(4)]
    plan = plan_mini_batch(rows, 2, teacher_limits=ForwardLimits())
    assert [index_lists(part.micro_batches) for part in plan] == [[[0]], [[1, 2, 3]]]


def test_bins_are_as_few_and_as_equal_as_can_be():
    """Distinct rows of 6, 5, 4, 3, 2, 1 tokens and a budget of 11: two bins of 11 and 10, in any of the ways."""
    rows = [Row([i], [50 + i] * (5 - i), [1] * (5 - i), index=i) for i in range(6)]
    (part,) = plan_mini_batch(rows, 1, ForwardLimits(max_tokens=11))
    assert sorted(sum(row.num_tokens for row in micro) for micro in part.micro_batches) == [10, 11]


def test_a_rank_with_fewer_bins_splits_further():
    """A rank whose two rows fit into one bin makes two, as the other needs two; a single row cannot be split."""
    long = Row([1], [2] * 29, [1] * 29, index=0)
    short = [Row([3 + i], [2] * 9, [1] * 9, index=1 + i) for i in range(3)]
    plan = plan_mini_batch([long, *short], 2, ForwardLimits(max_tokens=20))
    assert [list(map(len, part.micro_batches)) for part in plan] == [[1, 0], [2, 1]]
    assert index_lists(plan[0].micro_batches) == [[0], []]
    few = plan_mini_batch([*short[:2], long, short[2]], 2, ForwardLimits(max_tokens=20), is_balanced=False)
    assert [list(map(len, part.micro_batches)) for part in few] == [[1, 1], [1, 1]]


def test_unbalanced_keeps_the_order_of_rows():
    rows = [Row([i], [2], [1], index=i) for i in range(5)]
    plan = plan_mini_batch(rows, 2, ForwardLimits(1), is_balanced=False)
    assert [sorted(chain(*index_lists(part.micro_batches))) for part in plan] == [[0, 1], [2, 3, 4]]


@pytest.mark.parametrize("limits", [ForwardLimits(2, num_ranks=2), ForwardLimits(max_tokens=60, num_ranks=2)])
def test_ranks_that_run_forwards_together_get_the_same_rows_and_a_share_of_the_loss(limits):
    rows = make_rows(3)
    plan = plan_mini_batch(rows, 4, limits, ForwardLimits(num_ranks=2))
    assert plan[0] == plan[1] and plan[2] == plan[3]
    alone = plan_mini_batch(rows, 2, replace(limits, num_ranks=1), ForwardLimits())
    for together, single in zip(plan[::2], alone, strict=True):
        assert index_lists(together.micro_batches) == index_lists(single.micro_batches)
        assert sorted(chain(*index_lists(together.teacher_packs))) == sorted(chain(*index_lists(single.teacher_packs)))
        ranks = {row.index: row.loss_rank for row in chain(*together.micro_batches)}
        assert all(ranks[row.index] == row.loss_rank for row in chain(*together.teacher_packs))


def test_response_tokens_of_a_forward_are_shared_out_evenly():
    rows = [Row([1], [2] * n, [1] * n, index=i) for i, n in enumerate((8, 2, 3, 3))]
    (first, second) = plan_mini_batch(rows, 2, ForwardLimits(num_ranks=2))
    (forward,) = first.micro_batches
    assert {row.index: row.loss_rank for row in forward} == {0: 0, 1: 1, 2: 1, 3: 1}
    assert second == first
