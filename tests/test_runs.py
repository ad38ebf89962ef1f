import json
import os
import signal
import threading

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from synthcxr.config import Config, load_config
from synthcxr.errors import RunError
from synthcxr.files import atomic_path, hash_files, sha256_file, write_bytes, write_json, write_text
from synthcxr.runs import Run, StopFlag, derive_seed


class Job(Config):
    seed: int = 0
    inner: dict[str, int] = {}


class LaterJob(Job):
    added: int = 5


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_file_appears_only_when_whole(tmp_path):
    path = tmp_path / "made" / "a.txt"
    write_text(path, "old")
    with pytest.raises(KeyboardInterrupt), atomic_path(path) as temporary:
        assert (temporary.parent, temporary.suffix) == (path.parent, path.suffix)
        temporary.write_text("half")
        raise KeyboardInterrupt
    assert path.read_text() == "old"
    write_bytes(path, b"new")
    assert path.read_bytes() == b"new"
    assert names(path.parent) == ["a.txt"]


def test_a_folder_appears_only_when_whole(tmp_path):
    path = tmp_path / "data"
    with pytest.raises(ValueError), atomic_path(path) as temporary:
        temporary.mkdir()
        (temporary / "x").write_text("1")
        raise ValueError
    assert names(tmp_path) == []
    with atomic_path(path) as temporary:
        (temporary / "deep").mkdir(parents=True)
        (temporary / "deep" / "x").write_text("1")
        assert not path.exists()
    assert (path / "deep" / "x").read_text() == "1"
    assert names(tmp_path) == ["data"]


def test_a_full_folder_is_refused_before_any_work(tmp_path):
    write_text(tmp_path / "data" / "x", "1")
    worked = []
    with pytest.raises(RunError, match="not empty"), atomic_path(tmp_path / "data"):
        worked.append(1)
    with pytest.raises(RunError, match="can't be made a folder"):
        write_text(tmp_path / "data" / "x" / "y", "2")
    assert not worked
    with pytest.raises(FileNotFoundError), atomic_path(tmp_path / "nothing"):
        pass


def test_json_holds_what_runs_report(tmp_path):
    path = tmp_path / "a.json"
    write_json(
        path, {"job": Job(seed=1), "path": tmp_path, "n": np.int64(3), "f": float("nan"), "a": np.ones(2), 1: (2,)}
    )
    read = json.loads(path.read_text())
    assert read == {"job": {"seed": 1, "inner": {}}, "path": str(tmp_path), "n": 3, "f": None, "a": [1, 1], "1": [2]}
    with pytest.raises(TypeError):
        write_json(path, object())
    assert json.loads(path.read_text()) == read


def test_hashes_follow_contents_and_names_but_not_order_or_place(tmp_path):
    for place in ("one", "two"):
        for name in ("unet/config.json", "vae/config.json"):
            write_text(tmp_path / place / name, name)
    one = sorted((tmp_path / "one").rglob("*.json"))
    two = sorted((tmp_path / "two").rglob("*.json"))
    assert hash_files(one) == hash_files(one[::-1]) == hash_files(two)
    write_text(two[0], "vae/config.json")
    write_text(two[1], "unet/config.json")
    assert hash_files(one) != hash_files(two)
    assert sha256_file(one[0]) == sha256_file(two[1])
    assert len(hash_files([])) == len(hash_files(one[:1])) == 64


@given(st.integers(), st.text(st.characters(codec="utf-8")))
def test_derived_seeds_are_63_bit_and_repeatable(seed, name):
    derived = derive_seed(seed, name)
    assert 0 <= derived < 2**63
    assert derived == derive_seed(seed, name)
    assert derived not in (derive_seed(seed + 1, name), derive_seed(seed, name + "x"))


def test_derived_seeds_never_change():
    assert derive_seed(0, "sample-0") == 4044192531618777361  # printf 0:sample-0 | sha256sum, first 63 bits


def test_a_run_writes_what_it_was_and_what_came_of_it(tmp_path):
    run = Run.open(tmp_path / "out", Job(seed=3), "train")
    assert not run.finished
    with pytest.raises(RunError, match="not finished"):
        _ = run.result
    run.log("step", loss=float("nan"), number=1)
    run.finish({"loss": 0.5})
    assert run.finished
    assert run.result == {"loss": 0.5}
    assert load_config(Job, run.config_path) == Job(seed=3)
    assert json.loads(run.environment_path.read_text())["packages"]["numpy"] == np.__version__
    events = [json.loads(line) for line in run.log_path.read_text().splitlines()]
    assert [event["event"] for event in events] == ["start", "step", "finish"]
    assert events[1]["loss"] is None


def test_the_same_run_resumes_and_another_config_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    first = Run.open("out", Job(), "train")
    with open(first.log_path, "a") as file:
        file.write('{"event": "hal')
    again = Run.open("out", Job(), "train")
    assert json.loads(again.log_path.read_text().splitlines()[-1])["event"] == "resume"
    with pytest.raises(RunError) as caught:
        Run.open("out", Job(seed=1), "train")
    said = "out holds a run made with another config (seed 0, now 1); give another output or --fresh"
    assert str(caught.value) == said
    with pytest.raises(RunError, match="inner.a unset, now 2"):
        Run.open("out", Job(inner={"a": 2}), "train")
    assert Run.open("out", LaterJob(), "train").config_path.exists()  # a key added since has its default
    with pytest.raises(RunError, match="added"):
        Run.open("out", LaterJob(added=6), "train")


def test_fresh_removes_what_the_run_made_and_nothing_else(tmp_path):
    out = tmp_path / "out"
    write_text(out / "mine.txt", "keep")
    write_text(tmp_path / "outside" / "x", "keep")
    run = Run.open(out, Job(), "train")
    write_text(out / "checkpoints" / "1.bin", "gone")
    (out / "link").symlink_to(tmp_path / "outside")
    run.finish({})
    again = Run.open(out, Job(seed=1), "train", fresh=True)
    assert not again.finished
    assert names(out) == ["config.yaml", "environment.json", "log.jsonl", "mine.txt"]
    assert names(tmp_path / "outside") == ["x"]


def test_fresh_leaves_a_folder_that_no_run_made_alone(tmp_path):
    write_text(tmp_path / "config.yaml", "theirs: 1\n")
    write_text(tmp_path / "thesis.txt", "work of years")
    with pytest.raises(RunError, match="not made by a run"):
        Run.open(tmp_path, Job(), "train", fresh=True)
    with pytest.raises(RunError, match="another config"):
        Run.open(tmp_path, Job(), "train")
    assert names(tmp_path) == ["config.yaml", "thesis.txt"]


def test_outputs_that_cannot_be_runs_are_refused(tmp_path):
    write_text(tmp_path / "file", "")
    with pytest.raises(RunError, match="can't be made a folder"):
        Run.open(tmp_path / "file", Job(), "train")
    write_json(tmp_path / "other" / "result.json", {})
    with pytest.raises(RunError, match="not of this run"):
        Run.open(tmp_path / "other", Job(), "train")


def test_signals_ask_to_stop_and_the_second_interrupt_insists():
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    with StopFlag() as stop:
        assert not stop.requested
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.requested
        os.kill(os.getpid(), signal.SIGTERM)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
            signal.pause()
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before


def test_the_stop_flag_does_nothing_outside_the_main_thread():
    entered = []

    def enter() -> None:
        with StopFlag() as stop:
            entered.append(stop.requested)

    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    assert entered == [False]
