"""Batches ahead: in which order they are written, beside what, and what an error or an early end does."""

import threading

import pytest

from verl.trainer.schedule import OneStepOff, OnPolicy
from verl.workers.rollout_pool import EnginesNeedWeights


def test_on_policy_writes_a_batch_when_it_is_taken():
    drawn = []
    schedule = OnPolicy(lambda number: drawn.append(number) or f"batch {number}")
    for number in (1, 2):
        assert schedule.take(number) == f"batch {number}"
        schedule.begin_next(number + 1)
        schedule.settle()
        assert drawn[-1] == number
    schedule.close()


def test_the_next_batch_is_written_while_the_step_goes_on():
    drawn, update_is_done = [], threading.Event()

    def draw(number):
        if number > 1:
            assert update_is_done.wait(60)  # can only pass beside the update
        drawn.append(number)
        return number

    schedule = OneStepOff(draw, abandon=pytest.fail, draw_ahead=draw)
    for number in (1, 2, 3):
        assert schedule.take(number) == number
        update_is_done.clear()
        if number < 3:
            schedule.begin_next(number + 1)
        assert drawn[-1] == number
        update_is_done.set()
        schedule.settle()
    schedule.close()
    assert drawn == [1, 2, 3]


def test_an_error_in_the_thread_is_raised_when_the_engines_are_waited_for():
    def draw(number):
        if number == 2:
            raise ZeroDivisionError("the engine")

    schedule = OneStepOff(draw, abandon=pytest.fail, draw_ahead=draw)
    schedule.take(1)
    schedule.begin_next(2)
    with pytest.raises(ZeroDivisionError, match="the engine"):
        schedule.settle()
    schedule.close()


def test_a_batch_that_the_engines_failed_is_drawn_again_when_it_is_taken(caplog):
    drawn = []

    def draw_ahead(number):
        if number == 2:
            raise EnginesNeedWeights("none is left")
        return draw(number, "ahead")

    def draw(number, when="now"):
        drawn.append((number, when))
        return number

    schedule = OneStepOff(draw, pytest.fail, draw_ahead)
    for number in (1, 2, 3):
        assert schedule.take(number) == number
        schedule.begin_next(number + 1)
        schedule.settle()
    schedule.close()
    assert drawn == [(1, "now"), (2, "now"), (3, "ahead"), (4, "ahead")]
    assert "No rollout engine is left to finish the batch ahead" in caplog.text


def test_leaving_in_the_middle_of_a_batch_ends_what_it_waits_for():
    is_abandoned = threading.Event()

    def draw(number):
        if number == 2 and is_abandoned.wait(60):
            raise RuntimeError("the engines are gone")

    schedule = OneStepOff(draw, abandon=is_abandoned.set, draw_ahead=draw)
    schedule.take(1)
    schedule.begin_next(2)
    schedule.close()
    assert is_abandoned.is_set()
