"""The state machine of engines, proven over random histories: what may never happen, whatever is told of them."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from verl.workers.engine_health import TRANSITIONS, Event, Fleet, Health, IllegalTransition, State

HISTORIES = st.lists(st.tuples(st.integers(0, 2), st.sampled_from(Event)), max_size=60)
ORDERLY = st.lists(st.tuples(st.integers(0, 2), st.integers(0, 5)), max_size=60)
"""Choices among the events that are legal then: histories that go deep."""
HEALTHY = [Event.SYNC_BEGAN, Event.VERIFIED]
COME_BACK = [Event.RESTARTED, Event.STARTED, *HEALTHY]


def told(*events):
    health = Health()
    for event in events:
        health = health.after(event)
    return health.state


def legal_events(fleet, rank):
    health = fleet[rank]
    return [
        event
        for (state, event) in TRANSITIONS
        if state is health.state
        and (event is not Event.VERIFIED or health.is_syncing)
        and (event is not Event.RESTARTED or fleet.may_restart)
    ]


def assert_lawful(history):
    """A history of one engine may end in HEALTHY only by a verified sync that began after its last start."""
    since_start = history[len(history) - history[::-1].index(Event.DIED) :] if Event.DIED in history else history
    if Event.DIED in history:
        assert since_start[:2] == [Event.RESTARTED, Event.STARTED]
    assert since_start[-2:] == HEALTHY
    assert Event.DOUBTED not in since_start


@pytest.mark.parametrize("may_be_illegal", [True, False])
@settings(derandomize=True, max_examples=400)
@given(data=st.data())
def test_only_a_verified_engine_serves_and_restarts_stay_within_the_budget(may_be_illegal, data):
    budget = data.draw(st.integers(0, 3))
    fleet, histories = Fleet(3, budget), [[], [], []]
    for rank, choice in data.draw(HISTORIES if may_be_illegal else ORDERLY):
        if may_be_illegal:
            event = choice
        else:
            events = legal_events(fleet, rank)
            if not events:
                assert fleet[rank].state is State.DEAD and not fleet.may_restart
                continue
            event = events[choice % len(events)]
        before = fleet[rank]
        is_legal = event in legal_events(fleet, rank)
        try:
            fleet.tell(rank, event)
        except IllegalTransition:
            assert not is_legal and fleet[rank] == before
            continue
        assert is_legal
        histories[rank].append(event)
        for served in fleet.serving:
            assert_lawful(histories[served])
        assert fleet.num_restarts == sum(history.count(Event.RESTARTED) for history in histories) <= budget
        assert fleet.is_complete == all(fleet[i].state is State.HEALTHY for i in range(3))


def test_the_way_of_an_engine_that_dies_while_it_writes():
    assert told(*HEALTHY) is State.HEALTHY
    assert told(*HEALTHY, Event.SYNC_BEGAN) is State.STALE
    assert told(*HEALTHY, Event.DOUBTED, Event.DIED) is State.DEAD
    assert told(*HEALTHY, Event.DIED, Event.RESTARTED, Event.STARTED) is State.STALE
    assert told(*HEALTHY, Event.DIED, *COME_BACK) is State.HEALTHY


@pytest.mark.parametrize(
    ("history", "event", "message"),
    [
        ([], Event.VERIFIED, "stale and gets no weights cannot be 'verified'"),
        ([Event.DIED], Event.VERIFIED, "dead and gets no weights cannot be 'verified'"),
        ([Event.DIED], Event.SYNC_BEGAN, "dead cannot be 'sync began'"),
        ([Event.DIED, Event.RESTARTED], Event.SYNC_BEGAN, "restarting cannot be 'sync began'"),
        ([*HEALTHY, Event.DOUBTED], Event.SYNC_BEGAN, "suspect cannot be 'sync began'"),
        # the sync of the process before does not count for the new one
        ([Event.SYNC_BEGAN, Event.DIED, *COME_BACK[:2]], Event.VERIFIED, "stale and gets no weights"),
    ],
)
def test_what_cannot_happen_is_refused(history, event, message):
    with pytest.raises(IllegalTransition, match=message):
        told(*history, event)


def test_the_budget_is_shared():
    fleet = Fleet(2, max_restarts=1)
    for rank in (0, 1):
        fleet.tell(rank, Event.DIED)
    fleet.tell(1, Event.RESTARTED)
    with pytest.raises(IllegalTransition, match="All 1 restarts of rollout engines are used up"):
        fleet.tell(0, Event.RESTARTED)
    assert fleet[0].state is State.DEAD and fleet.ranks(State.DEAD, State.RESTARTING) == [0, 1]
