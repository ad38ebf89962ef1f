"""Workers that crash, hang, hog memory or are killed: the parent gets one line for the item, and all other results."""

import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from guard_tricks import Job, identity, work
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from synthcxr.dicom import guard
from synthcxr.dicom.guard import Guard
from synthcxr.dicom.guard_worker import pack, unpack

GIB = 2**30


def jobs(tricks, folder=Path("/nowhere")):
    return [Job(folder / f"{i}.dcm", trick, i) for i, trick in enumerate(tricks)]


def assert_right(result):
    expected = np.random.default_rng(result.item.number).integers(0, 65536, (7, result.item.number + 1), np.uint16)
    assert result.error is None
    np.testing.assert_array_equal(result.value.pixels, expected)
    assert result.value.pixels.dtype == np.uint16
    assert result.value.data == bytes(range(result.item.number))
    assert result.value.path == result.item.path
    assert (result.value.sizes, result.value.share) == ((result.item.number, 2), 0.5)


def alive(pid):
    """Whether a process runs; one that ended and waits to be collected by whoever adopted it doesn't."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def wait_until(condition, seconds=20.0):
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.02)
    return condition()


@given(arrays(st.sampled_from(["u1", "<u2", ">i2", "f8", "?"]), st.tuples(st.integers(0, 3), st.integers(0, 3))),
       st.binary(max_size=40), st.floats(allow_nan=False), st.text(max_size=5))  # fmt: skip
def test_values_travel_unchanged(array, data, number, name):
    buffers = []
    value = (array, data, number, None, True, Path(name), array.T)
    packed = pack(value, buffers)
    payload = np.zeros(max((offset + part.nbytes for offset, part in buffers), default=0), np.uint8)
    for offset, part in buffers:
        payload[offset : offset + part.nbytes] = part.reshape(-1).view(np.uint8)
    again = unpack(None, packed, payload)
    np.testing.assert_array_equal(again[0], array)
    np.testing.assert_array_equal(again[6], array.T)
    assert again[0].dtype == array.dtype
    assert again[1:6] == (data, number, None, True, str(Path(name)))


@pytest.mark.parametrize("workers", [1, 3])
def test_results_come_whole_in_order_and_only_as_far_ahead_as_promised(workers):
    drawn = []

    def draw():
        for job in jobs(["", "noise"] * 20):
            drawn.append(job)
            yield job

    with Guard(work, workers) as pool:
        for place, result in enumerate(pool.map(draw())):
            assert result.item.number == place
            assert len(drawn) <= place + 3 * workers
            assert_right(result)
            assert result.value.modules == "", "a worker imports no more than its function needs"
        assert len(drawn) == 40
        assert len({result.value.pid for result in pool.map(jobs([""] * 20))}) <= workers
        assert list(pool.map([])) == []


def test_whatever_goes_wrong_with_an_item_is_one_line_and_the_rest_goes_on():
    tricks = ["", "user error", "", "bug", "", "killed", "", "segfault", "", "exit", "", "memory", ""]
    items = jobs(tricks)
    items[11] = Job(items[11].path, "memory", 11, 2 * GIB)
    with Guard(work) as pool:
        results = list(pool.map(items))
    assert [result.item for result in results] == items
    for result in results[::2]:
        assert_right(result)
    messages = [result.error for result in results[1::2]]
    for message, result in zip(messages, results[1::2], strict=True):
        assert message.startswith(f"{result.item.path}: ")
        assert "\n" not in message
    for message, word in zip(
        messages, ["fault", "KeyError in line", "SIGKILL", "SIGSEGV", "exit code 7", "1,024 MiB of memory"], strict=True
    ):
        assert word in message


def test_an_item_whose_worker_is_killed_gets_a_second_chance(tmp_path):
    with Guard(work, 2) as pool:
        for result in pool.map(jobs(["", "killed once", ""], tmp_path)):
            assert_right(result)


def test_memory_is_counted_above_what_the_worker_has_already():
    largest_before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss  # of children of earlier tests
    with Guard(work, memory=GIB // 4) as pool:
        few, many = pool.map([Job(Path("few"), "memory", 1, GIB // 5), Job(Path("many"), "memory", 2, GIB // 3)])
    assert few.error is None
    assert many.error == "many: needs more than 256 MiB of memory; replace or remove it"
    if sys.platform == "linux":
        largest = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
        # A child counts its parent's memory as well, as it was when it was forked.
        own = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        assert largest <= max(largest_before, own, GIB // 1024)


def test_slow_items_are_cut_off_even_inside_c_code_and_when_nobody_was_waiting():
    with Guard(work, timeout=0.4) as pool:
        list(pool.map(jobs([""])))
        start = time.monotonic()
        results = pool.map(jobs(["", "sleep", "", "busy in C", ""]))
        assert_right(next(results))
        time.sleep(1.0)  # the caller was away: that time is nobody's
        rest = list(results)
    assert time.monotonic() - start < 15
    for result in (rest[1], rest[3]):
        assert_right(result)
    for result in (rest[0], rest[2]):
        assert result.error == f"{result.item.path}: takes longer than 0.4 s; replace or remove it"


def test_a_worker_that_is_stopped_is_replaced(monkeypatch):
    monkeypatch.setattr(guard, "PATIENCE_SECONDS", 0.5)
    with Guard(work, timeout=0.2) as pool:
        list(pool.map(jobs([""])))
        before, stopped, after = pool.map(jobs(["", "stopped", ""]))
    assert "takes longer than 0.2 s" in stopped.error
    assert_right(before)
    assert_right(after)


def test_a_map_left_in_the_middle_leaves_nothing_running():
    with Guard(work, 2) as pool:
        results = pool.map(jobs(["", "", "sleep", "sleep"]))
        pids = {next(results).value.pid, next(results).value.pid}
        with pytest.raises(RuntimeError, match="middle of another"):
            next(pool.map(jobs([""])))
        results.close()
        for result in pool.map(jobs([""] * 4)):
            assert_right(result)
            pids.add(result.value.pid)
    assert not any(map(alive, pids))


def test_workers_that_cannot_start_are_said_and_not_tried_for_ever(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    only_parent = "import sys, os\nif sys.argv[0] == '-c':\n    {}\ndef same(item: str) -> str:\n    return item\n"
    (tmp_path / "raises.py").write_text(only_parent.format("raise ImportError('no such luck')"))
    (tmp_path / "dies.py").write_text(only_parent.format("os._exit(3)"))
    import dies
    import raises

    for module, said in [(raises, "ImportError: no such luck"), (dies, "exit code 3")]:
        with Guard(module.same) as pool, pytest.raises(RuntimeError, match=said):
            list(pool.map("abc"))


def test_functions_and_values_that_cannot_travel_are_refused():
    def inner(item: str) -> str:
        return item

    for function in (inner, lambda item: item, len):
        with pytest.raises(ValueError, match="holds by name"):
            Guard(function)
    with pytest.raises(ValueError, match="positive"):
        Guard(work, workers=0)
    with Guard(identity) as pool:
        (result,) = pool.map(jobs([""]))
        assert "TypeError in line" in result.error
        with pytest.raises(ValueError, match="too large"):
            list(pool.map([Job(Path("x" * 40_000))]))


PARENT = """
import sys
sys.path[:] = {path!r}
from guard_tricks import Job, work
from synthcxr.dicom.guard import Guard
from pathlib import Path
with Guard(work, 2, timeout=0.5) as pool:
    pids = [result.value.pid for result in pool.map([Job(Path("a"))] * 8)]
    print(*set(pids), flush=True)
    if {busy}:
        for _ in pool.map([Job(Path("a"), "sleep"), Job(Path("b"), "busy in C")] * 500):
            pass
    sys.stdin.read()
"""


@pytest.mark.parametrize(
    ("number", "busy"), [("SIGKILL", True), ("SIGKILL", False), ("SIGTERM", True), ("SIGINT", True)]
)
def test_no_worker_outlives_its_parent(number, busy):
    code = PARENT.format(path=sys.path, busy=busy)
    parent = subprocess.Popen(
        [sys.executable, "-c", code],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    pids = [int(word) for word in parent.stdout.readline().split()]
    assert pids and all(map(alive, pids))
    time.sleep(0.2)
    start = time.monotonic()
    parent.send_signal(getattr(signal, number))
    assert parent.wait(20) != 0
    assert wait_until(lambda: not any(map(alive, pids)))
    if number == "SIGINT":
        assert time.monotonic() - start < 5
    parent.stdin.close()
    parent.stdout.close()
