"""Batches made ahead: the same ones in any order of asking, errors where they are asked for."""

import threading

import pytest

from synthcxr.train.ahead import Ahead


def test_what_is_taken_is_what_was_asked_for_whatever_was_made_ahead():
    ahead = Ahead(lambda place: place * place, lambda place: place + 1)
    assert [ahead.take(place) for place in (0, 1, 2, 7, 8, 3, 3)] == [0, 1, 4, 49, 64, 9, 9]


def test_the_next_is_made_while_this_one_is_used():
    made = {place: threading.Event() for place in range(3)}

    def make(place: int) -> str:
        made[place].set()
        return threading.current_thread().name

    ahead = Ahead(make, lambda place: min(place + 1, 2))
    assert ahead.take(0) != threading.current_thread().name
    assert made[1].wait(10) and not made[2].is_set()


def test_an_error_is_raised_where_its_batch_is_asked_for():
    def make(place: int) -> int:
        if place == 1:
            raise ValueError("shard 1 is damaged")
        return place

    ahead = Ahead(make, lambda place: place + 1)
    assert ahead.take(0) == 0
    with pytest.raises(ValueError, match="shard 1 is damaged"):
        ahead.take(1)
    assert ahead.take(2) == 2
