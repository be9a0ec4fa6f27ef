"""The order of the rows: complete, reproducible, and the same after a restart."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from verl.dataset import StatefulSampler

SIZES = st.integers(1, 12).flatmap(lambda n: st.tuples(st.just(n), st.integers(1, n)))


@given(SIZES, st.booleans(), st.integers(0, 3), st.integers(0, 30), st.integers(1, 30))
def test_a_resumed_run_draws_what_the_uninterrupted_one_would(sizes, shuffle, seed, num_before, num_after):
    whole = StatefulSampler(*sizes, shuffle, seed)
    for _ in range(num_before):
        whole.next_batch()
    resumed = StatefulSampler(*sizes, shuffle, seed)
    resumed.load_state_dict(json.loads(json.dumps(whole.state_dict())))
    assert resumed.epoch == whole.epoch
    for _ in range(num_after):
        state = resumed.state_dict()
        assert resumed.peek_batch() == resumed.peek_batch()
        assert resumed.state_dict() == state  # looking ahead moves nothing
        assert resumed.peek_batch() == resumed.next_batch() == whole.next_batch()
        assert resumed.state_dict() == whole.state_dict()


@given(SIZES, st.booleans(), st.integers(0, 3))
def test_an_epoch_shows_every_row_at_most_once_and_drops_the_rest(sizes, shuffle, seed):
    num_rows, batch_size = sizes
    sampler = StatefulSampler(num_rows, batch_size, shuffle, seed)
    for epoch in range(3):
        seen = [row for _ in range(num_rows // batch_size) for row in sampler.next_batch()]
        assert sampler.epoch == epoch
        assert len(seen) == len(set(seen)) == num_rows // batch_size * batch_size
        assert set(seen) <= set(range(num_rows))


def test_without_shuffling_rows_come_in_order():
    sampler = StatefulSampler(5, 2, shuffle=False, seed=0)
    assert [sampler.next_batch() for _ in range(4)] == [[0, 1], [2, 3], [0, 1], [2, 3]]


def test_epochs_and_seeds_have_orders_of_their_own():
    sampler = StatefulSampler(50, 50, shuffle=True, seed=1)
    orders = [sampler.next_batch(), sampler.next_batch(), StatefulSampler(50, 50, True, 2).next_batch()]
    assert len({tuple(order) for order in orders}) == 3


def test_the_batch_size_may_change_on_resuming():
    first = StatefulSampler(10, 4, shuffle=True, seed=0)
    rows = first.next_batch()
    second = StatefulSampler(10, 3, shuffle=True, seed=0)
    second.load_state_dict(first.state_dict())
    rows += second.next_batch() + second.next_batch()
    assert sorted(rows) == list(range(10)) and second.epoch == 0


@pytest.mark.parametrize(("num_rows", "shuffle", "seed"), [(11, True, 0), (10, False, 0), (10, True, 1)])
def test_another_order_is_refused_on_resuming(num_rows, shuffle, seed):
    state = StatefulSampler(10, 2, shuffle=True, seed=0).state_dict()
    with pytest.raises(ValueError, match="the order of the data would change"):
        StatefulSampler(num_rows, 2, shuffle, seed).load_state_dict(state)


def test_a_batch_larger_than_the_data_is_refused():
    with pytest.raises(ValueError, match="train_batch_size=4: must be between 1 and the number of rows, 3"):
        StatefulSampler(3, 4, shuffle=True, seed=0)
