"""The experiment: equal treatment of all arms, resuming to the same bytes, shortcuts, and a verdict that is true."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from downstream_drawn import HEART, WATER, config_for, contents, write

from synthcxr.config import dump_config
from synthcxr.downstream import worker
from synthcxr.downstream.bench import Bench, open_bench
from synthcxr.downstream.cell import Predictions, Told, cells_of, load_predictions
from synthcxr.downstream.config import DownstreamConfig
from synthcxr.downstream.labels import values_of
from synthcxr.downstream.measure import CORRELATED, DROP, MACRO, UNCORRELATED, Key
from synthcxr.downstream.run import run
from synthcxr.downstream.summary import Summary
from synthcxr.downstream.verdict import verdict
from synthcxr.downstream.worker import Worker
from synthcxr.errors import ConfigError, DatasetError, RunError


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `real` (400 patients of one image, half for testing) and `synthetic` (100 images)."""
    folder = tmp_path_factory.mktemp("drawn")
    write(folder / "real", "real", 400, 0)
    write(folder / "synthetic", "synthetic", 100, 1)
    return folder


@pytest.fixture(scope="module")
def done(drawn: Path, tmp_path_factory: pytest.TempPathFactory) -> DownstreamConfig:
    """A whole experiment of two fractions and two seeds."""
    config = config_for(drawn, tmp_path_factory.mktemp("done") / "out")
    run(config)
    return config


def test_all_arms_are_treated_alike(done: DownstreamConfig) -> None:
    bench, told = open_bench(done), []
    for cell in cells_of(done):
        told.append(load_predictions(done.output / "cells", cell, bench.hash).told)
    assert len(told) == 2 * (2 + 1 + 2 + 2)
    assert {one.steps for one in told} == {6} and {one.seen_real + one.seen_synthetic for one in told} == {48}
    for seed in range(2):
        assert len({one.initial_weights for one in told if one.cell.seed == seed}) == 1
        assert len({one.augmentation for one in told if one.cell.seed == seed}) == 1
    assert len({one.initial_weights for one in told}) == len({one.augmentation for one in told}) == 2
    seen = {one.cell.arm: (one.seen_real, one.seen_synthetic) for one in told}
    assert seen == {"real": (48, 0), "synthetic": (0, 48), "mixed": (24, 24), "pretrain": (24, 24)}
    patients = {one.cell.fraction: one.patients for one in told if one.cell.arm == "real"}
    assert patients == {0.2: 20, 1.0: 100}
    result = json.loads((done.output / "result.json").read_text())
    assert result["protocol"]["steps"] == 6 and result["protocol"]["classifiers"] == 14
    report = (done.output / "report.html").read_text()
    assert "6 of 8 images, each classifier alike (checked)" in report and "<script" not in report
    assert "the same draws for all arms of a seed (checked)" in report and told[0].augmentation[:12] in report
    assert "the same for all arms of a seed (checked)" in report and told[0].initial_weights[:12] in report


@pytest.mark.parametrize(
    ("field", "other", "said"),
    [
        ("steps", 7, "optimiser steps differ between classifiers .6, 7."),
        ("batch_size", 16, "images a batch differ"),
        ("initial_weights", "0" * 64, "initial weights of seed 0 differ"),
        ("augmentation", "0" * 64, "augmentations of seed 0 differ"),
        ("parameters", 1, "parameters differ"),
    ],
)
def test_other_treatment_of_an_arm_is_an_error(done: DownstreamConfig, field: str, other: Any, said: str) -> None:
    bench, seeds = open_bench(done), predicted(done)
    favoured = seeds["mixed", 1.0, 1.0][0]
    seeds["mixed", 1.0, 1.0][0] = Predictions(
        favoured.told.model_copy(update={field: other}), favoured.validate, favoured.test
    )
    with pytest.raises(RunError, match=said):
        Summary(done, bench, seeds).protocol()


def predicted(config: DownstreamConfig) -> dict[Key, list[Predictions]]:
    bench, seeds = open_bench(config), {}
    for cell in cells_of(config):
        key = (cell.arm, cell.fraction, cell.multiple)
        seeds.setdefault(key, []).append(load_predictions(config.output / "cells", cell, bench.hash))
    return seeds


def test_numbers_can_be_computed_again_from_what_is_saved(done: DownstreamConfig) -> None:
    from sklearn.metrics import roc_auc_score

    rows = list(csv.reader((done.output / "test.csv").read_text().splitlines()))
    column = rows[0].index(HEART)
    there = [row[column] == "1" for row in rows[1:]]
    result = json.loads((done.output / "result.json").read_text())
    point = next(p for p in result["points"] if (p["arm"], p["metric"], p["label"]) == ("synthetic", "AUROC", HEART))
    for seed, value in enumerate(point["seeds"]):
        with np.load(done.output / "cells" / f"synthetic_fraction-0_multiple-1_seed-{seed}.npz") as found:
            labels = json.loads(str(found["told"]))["labels"]
            assert roc_auc_score(there, found["test"][:, labels.index(HEART)]) == pytest.approx(value)


def test_the_test_patients_are_asked_about_once_and_last(
    drawn: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = config_for(drawn, tmp_path, seeds=1, fractions=[1.0], arms=["real"])
    asked: list[int] = []
    before = worker._Training._predict

    def predict(self: Any, network: torch.nn.Module, pool: Any) -> np.ndarray:
        asked.append(len(pool))
        return before(self, network, pool)

    monkeypatch.setattr(worker._Training, "_predict", predict)
    at = Worker(config, "cpu")
    at(worker.CellJob(0, next(cells_of(config)), tmp_path / "cells"))
    assert asked == [len(at.bench.validate)] * 2 + [len(at.bench.test)]


def test_killed_it_goes_on_to_the_same_bytes(done: DownstreamConfig, tmp_path: Path) -> None:
    config = done.model_copy(update={"output": tmp_path / "out"})
    torch.set_num_threads(1)  # a fork has none of its parent's
    pid = os.fork()
    if pid == 0:
        run(config)
        os._exit(0)
    end = time.monotonic() + 600
    while len(list((tmp_path / "out").glob("cells/[!.]*.npz"))) < 2 and time.monotonic() < end:
        time.sleep(0.01)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    there = list((tmp_path / "out").glob("cells/[!.]*.npz"))
    assert 2 <= len(there) < 14 and not (tmp_path / "out" / "result.json").exists()
    before = {file: file.stat().st_mtime_ns for file in there}
    run(config)
    assert {file: file.stat().st_mtime_ns for file in there} == before
    left, straight = contents(config.output), contents(done.output)
    assert {name: data for name, data in left.items() if name[0] != "."} == straight


def test_a_finished_one_is_left_and_another_config_is_refused(done: DownstreamConfig) -> None:
    before = (done.output / "result.json").stat().st_mtime_ns
    assert run(done).seeds == 2 and (done.output / "result.json").stat().st_mtime_ns == before
    with pytest.raises(RunError, match="seed 0, now 1"):
        run(done.model_copy(update={"seed": 1}))


def fabricated(config: DownstreamConfig, bench: Bench, strength: dict[str, float]) -> dict[Key, list[Predictions]]:
    """Predictions of classifiers that know the labels as well as the strength of their arm says."""
    seeds: dict[Key, list[Predictions]] = {}
    for cell in cells_of(config):
        rng = np.random.default_rng([cell.seed, int(1000 * cell.fraction), len(cell.arm)])
        told = []
        for pool in (bench.validate, bench.test):
            logits = strength[cell.arm] * (np.nan_to_num(pool.labels, nan=0.5) - 0.5) + rng.normal(
                0, 1, pool.labels.shape
            )
            told.append((1 / (1 + np.exp(-logits))).astype(np.float32))
        about = Told(
            cell=cell, data=bench.hash, labels=bench.labels, initial_weights=str(cell.seed),
            augmentation=str(cell.seed), parameters=1, steps=6, batch_size=8, selected_step=6, checks={}, patients=1,
            images=1, synthetic=1, seen_real=1, seen_synthetic=1,
        )  # fmt: skip
        seeds.setdefault((cell.arm, cell.fraction, cell.multiple), []).append(Predictions(about, *told))
    return seeds


def test_a_planted_gain_is_found_and_nothing_else_is(drawn: Path, tmp_path: Path) -> None:
    config = config_for(drawn, tmp_path, seeds=5, replicates=300)
    bench = open_bench(config)
    strength = {"real": 1.0, "synthetic": 0.0, "mixed": 3.0, "pretrain": 1.0}
    summary = Summary(config, bench, fabricated(config, bench, strength))
    comparisons, points = summary.comparisons(), summary.points()
    told = verdict([arm.name for arm in config.arms], comparisons, points, summary.savings(), config.seeds, "all")
    assert "learned from all real training patients, their labels included" in told[-1]
    of = {sentence.split(":")[0]: sentence for sentence in reversed(told) if "macro AUROC" in sentence}
    assert "a measurable gain in macro AUROC at 20% of the real patients" in of["mixed"]
    assert "it is worth at least 5 times" in of["mixed"]
    assert of["pretrain"].startswith("pretrain: no measurable gain in macro AUROC at any fraction (at best ")
    assert "a measurable loss" in of["synthetic"] and "no measurable gain" in of["synthetic"]
    assert not any("small run" in sentence for sentence in told)
    assert told[0].startswith(
        "Synthetic images helped measurably in 2 of 6 comparisons of macro AUROC: mixed, with 20%"
    )
    nothing = verdict(("real", "pretrain"), [c for c in comparisons if c.arm == "pretrain"], points, (), config.seeds)
    assert nothing[0].startswith("No measurable gain: in none of 2 comparisons of macro AUROC did")
    for one in comparisons:
        assert one.p <= one.p_holm <= 1 and one.difference.low <= one.difference.value <= one.difference.high
    assert {one.label for one in comparisons if one.family == "AUROC by label"} == {HEART, WATER, "male", "AP"}


def test_a_shortcut_shows_as_a_drop_in_the_test_without_it(drawn: Path, tmp_path: Path) -> None:
    config = config_for(
        drawn, tmp_path, seeds=2, fractions=[1.0], least=10, shortcut={"finding": WATER, "correlation": 0.8}
    )
    bench = open_bench(config)
    assert bench.labels == (WATER,)
    views = {name: values_of(pool.records, ("AP",))[:, 0] for name, pool in bench.splits.items()}
    assert np.corrcoef(bench.train.labels[:, 0], views["train"])[0, 1] == pytest.approx(0.8, abs=0.05)
    seeds = fabricated(config, bench, {"real": 0.0, "synthetic": 0.0, "mixed": 9.0, "pretrain": 0.0})
    for key in [key for key in seeds if key[0] == "real"]:  # who learned the view alone
        tell = [0.1 + 0.8 * views[name][:, None] for name in ("validate", "test")]
        seeds[key] = [Predictions(one.told, *(t.astype(np.float32) for t in tell)) for one in seeds[key]]
    summary = Summary(config, bench, seeds)
    value = {(p.arm, p.metric): p.measured.value for p in summary.points() if p.label in (WATER, MACRO)}
    assert value["real", CORRELATED] == pytest.approx(0.9) and value["real", UNCORRELATED] == pytest.approx(0.5)
    assert value["real", DROP] == pytest.approx(0.4) and abs(value["mixed", DROP]) < 0.02
    cells = {(c.finding, c.confounder): c.right.value for c in summary.planted().cells if c.arm == "real"}
    assert cells == {(True, True): 1, (True, False): 0, (False, True): 0, (False, False): 1}
    told = verdict(("real", "mixed"), summary.comparisons(), summary.points(), (), 2, "none")
    assert (
        "learned from none" in told[-2]
        and "mixed: a measurable gain in uncorrelated AUROC" in told[1]
        and "small run (2 seeds" in told[-1]
    )
    unplanted = verdict(("real", "mixed"), summary.comparisons(), summary.points(), (), 5, "all")
    assert "learned from them as they are, without the planted correlation" in unplanted[-1]


def test_groups_that_are_too_small_are_left_out_and_said(tmp_path: Path) -> None:
    write(tmp_path / "real", "real", 80, 0)
    write(tmp_path / "synthetic", "synthetic", 30, 1)
    result = run(config_for(tmp_path, tmp_path / "out", seeds=1, fractions=[1.0], arms=["real", "mixed"], least=5))
    assert any(reason.startswith("underdiagnosis: fewer than two groups") for reason in result.left_out)
    assert result.worst == {} and "Too few groups" in (tmp_path / "out" / "report.html").read_text()


def test_mistakes_are_said(drawn: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="must hold 'real' once"):
        config_for(drawn, tmp_path, arms=["mixed"])
    with pytest.raises(ConfigError, match="did you mean 'drawn'"):
        config_for(drawn, tmp_path, arms=["real", "mixed of drwan"])
    with pytest.raises(ConfigError, match="label 'pleural efusion'.*did you mean"):
        config_for(drawn, tmp_path, labels=["pleural efusion"])
    with pytest.raises(ConfigError, match="multiples = 2: .* has 100 training images, fewer than 200"):
        open_bench(config_for(drawn, tmp_path, multiples=[2]))
    with pytest.raises(ConfigError, match="Hernia has fewer than 20 test images"):
        open_bench(config_for(drawn, tmp_path, labels=["Hernia"]))
    with pytest.raises(DatasetError, match="given as real and holds synthetic images"):
        open_bench(config_for(drawn, tmp_path, real=[drawn / "synthetic"]))


def few(drawn: Path, output: Path, **fields: Any) -> DownstreamConfig:
    return config_for(drawn, output, seeds=1, arms=["real", "mixed"], **fields)


def in_its_own_process(config: DownstreamConfig, folder: Path, launch: str = "", **environment: str) -> str:
    """`synthcxr downstream` on a config; what it prints."""
    (folder / "job.yaml").write_text(dump_config(config))
    command = [sys.executable, *launch.split(), "-m", "synthcxr.cli", "downstream", str(folder / "job.yaml")]
    environment |= {"PYTHONPATH": str(Path(__file__).parents[1]), "OMP_NUM_THREADS": "1"}
    ended = subprocess.run(command, env=os.environ | environment, capture_output=True, text=True, timeout=900)
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


@pytest.mark.slow
@pytest.mark.parametrize("engine", [{"workers": 2}, {"kind": "ray", "workers": 2}], ids=["processes", "ray"])
def test_several_workers_make_the_bytes_of_one(drawn: Path, tmp_path: Path, engine: dict[str, Any]) -> None:
    if "kind" in engine and find_spec("ray") is None:  # not imported here: that is when it reads its token
        pytest.skip("Ray isn't installed: pip install -e '.[ray]'")
    run(few(drawn, tmp_path / "one"))
    token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "0123456789abcdef" * 4}  # read when Ray is imported
    told = {**token, "RAY_worker_register_timeout_seconds": "600"}
    in_its_own_process(few(drawn, tmp_path / "two", engine=engine), tmp_path, **told)
    assert contents(tmp_path / "one") == contents(tmp_path / "two")


@pytest.mark.slow
def test_processes_of_accelerate_train_each_cell_together(drawn: Path, tmp_path: Path) -> None:
    launch = "-m accelerate.commands.launch --cpu --num_processes 2 --num_machines 1 --mixed_precision no"
    printed = in_its_own_process(few(drawn, tmp_path / "out", fractions=[1.0]), tmp_path, launch)
    assert printed.count("report: ") == 1 and len(list((tmp_path / "out" / "cells").glob("[!.]*.npz"))) == 2
