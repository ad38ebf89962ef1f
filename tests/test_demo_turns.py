"""Turns at the model: in order of arrival, each job's to give up, and never so many that one waits for nothing."""

import threading
from itertools import islice

import pytest

from synthcxr.demo.turns import Job, Line
from synthcxr.errors import RunError
from synthcxr.generate import Stopped


def test_the_first_has_the_model_and_the_next_one_follows() -> None:
    line = Line()
    with line.job("b's page", "generate") as second_to_leave:
        assert list(second_to_leave.turn()) == []
        with line.job("c's page", "generate") as waits:
            assert list(islice(waits.turn(), 2)) == [1, 1]
    with line.job(None, "audit") as alone:
        assert list(alone.turn()) == []


def test_a_turn_comes_as_soon_as_the_one_before_ends() -> None:
    line, order = Line(), []

    def take(name: str, entered: threading.Event, go: threading.Event) -> None:
        with line.job(name, "generate") as job:
            entered.set()
            list(job.turn())
            go.wait(60)
            order.append(name)

    threads, gates = [], []
    for name in ("a", "b", "c"):
        entered, go = threading.Event(), threading.Event()
        threads.append(threading.Thread(target=take, args=(name, entered, go)))
        threads[-1].start()
        assert entered.wait(60)
        gates.append(go)
    for go in reversed(gates):  # whoever is ready first: turns are taken as they came
        go.set()
    for thread in threads:
        thread.join(60)
    assert order == ["a", "b", "c"]


def test_stop_withdraws_what_waits_at_once_and_nothing_of_others() -> None:
    line = Line()
    with (
        line.job("mine", "dataset") as at_work,
        line.job("mine", "generate") as waits,
        line.job("other", "generate") as third,
    ):
        line.stop("mine", "generate")
        with pytest.raises(Stopped):
            list(waits.turn())
        assert not at_work.stopped() and not third.stopped()
        line.stop(None, "generate")
        assert not third.stopped()
        assert next(third.turn()) == 2  # until the withdrawn one has left


def test_a_job_that_fails_or_is_left_by_its_browser_gives_up_its_place() -> None:
    line = Line()

    def wait() -> object:
        with line.job("gone", "generate") as job:
            yield from job.turn()

    with line.job("first", "generate"):
        waiting = wait()
        next(waiting)
        waiting.close()  # as gradio does where a browser has gone
    with pytest.raises(ZeroDivisionError), line.job("fails", "generate"):
        raise ZeroDivisionError
    with line.job("next", "generate") as job:
        assert list(job.turn()) == []


def test_too_many_are_told_that_it_is_busy() -> None:
    line = Line(waiting=2)
    jobs: list[Job] = []
    with line.job(None, "a") as one, line.job(None, "b") as two, line.job(None, "c") as three:
        jobs += [one, two, three]
        with pytest.raises(RunError, match="busy: 2 requests are waiting already"), line.job(None, "d"):
            pass
    with line.job(None, "e") as job:
        assert list(job.turn()) == []
