"""`synthesize`: what comes out is a function of the config, whoever draws it and however often it's killed."""

import contextlib
import errno
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from synthcxr import generate
from synthcxr.conditions import Condition
from synthcxr.config import load_config
from synthcxr.data.dataset import Dataset
from synthcxr.data.writer import DatasetWriter
from synthcxr.errors import ConfigError, ModelError, RunError, UserError
from synthcxr.files import only_writer
from synthcxr.generate import Generator, Request
from synthcxr.images import read_provenance
from synthcxr.model.audit import AuditRecord
from synthcxr.model.folder import bind_audit, load_model
from synthcxr.model.precision import bfloat16_is_faster
from synthcxr.model.sampler import SamplerSettings
from synthcxr.synthesis import worker
from synthcxr.synthesis.config import SynthesizeConfig
from synthcxr.synthesis.estimate import report
from synthcxr.synthesis.export.run import ExportConfig
from synthcxr.synthesis.export.run import run as export
from synthcxr.synthesis.run import run
from synthcxr.synthesis.screen import Screen, ScreenConfig, Verdict

BALANCED = {"kind": "balanced", "findings": ["No Finding", "Cardiomegaly", "effusion"], "sex": ["female", "male"]}


def config_for(model: Path, output: Path, rows: int = 14, plan: dict | None = None, **fields) -> SynthesizeConfig:
    settings = {"sampler": "dpm++", "steps": 2, "guidance": 2}
    given = {"batch_size": 3, "shard_rows": 5, "screen": None, "licence": "CC0-1.0", "engine": {"workers": 1}, **fields}
    plan = plan or {**BALANCED, "rows": rows}
    return SynthesizeConfig(plan=plan, output=output, model=str(model), settings=settings, **given)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


class Picky:
    """A screen that judges by the picture alone: what its mean rounds to."""

    def __init__(self, passes: int) -> None:
        self.passes = passes

    def __call__(self, pixels: Sequence[np.ndarray], conditions: Sequence[Condition]) -> list[Verdict]:
        sums = [int(picture.sum()) for picture in pixels]
        return [Verdict(failed=None if n % 4 < self.passes else "distribution", values={"sum": n}) for n in sums]


def picky(config: ScreenConfig, model: str | None) -> Screen:
    return Picky(2)


def never(config: ScreenConfig, model: str | None) -> Screen:
    return Picky(0)


def test_a_plan_becomes_a_labelled_dataset(tiny_model: Path, tmp_path: Path) -> None:
    done = run(config_for(tiny_model, tmp_path / "out", split="test"))
    assert done.made == 14 and done.result.images == done.result.drawn == 14 and done.result.given_up == 0
    records = Dataset.open(tmp_path / "out").records
    model = load_model(tiny_model)
    assert [int(record.id.split("-")[-1]) for record in records] == list(range(14))
    assert len({record.seed for record in records}) == len({record.patient for record in records}) == 14
    first = records[1]
    assert (first.origin, first.split, first.licence, first.model) == ("synthetic", "test", "CC0-1.0", model.hash)
    assert first.prompt == "Female. Cardiomegaly." and json.loads(first.sampler)["steps"] == 2
    # The record says all it takes to draw the picture again.
    request = Request(condition=first.condition, seed=first.seed)
    said = {k: v for k, v in json.loads(first.sampler).items() if k != "precision"}
    assert None not in said.values()
    (again,) = Generator(model, SamplerSettings(**said))([request], progress=False)
    assert np.abs(again.pixels.astype(int) - done.dataset.read(first)).max() <= 1
    said = read_provenance(done.dataset.read_bytes(first))
    assert (said["seed"], said["prompt"], said["model"]) == (first.seed, first.prompt, first.model)
    levels = {row["condition"]: row["asked"] for row in done.dataset.info["synthesize"]["acceptance"]}
    assert levels["any"] == 14 and levels["finding: cardiomegaly"] == 5 and levels["sex: male"] == 6
    assert str(tmp_path) not in (tmp_path / "out" / "dataset.json").read_text()
    assert {path.name for path in tmp_path.iterdir()} == {"out", "out.run"}


def test_finished_it_makes_nothing_and_changes_nothing(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = run(config_for(tiny_model, tmp_path / "out"))
    before = contents(tmp_path)
    monkeypatch.setattr(worker, "load_model", lambda *_: pytest.fail("nothing is to be drawn"))
    again = run(config_for(tiny_model, tmp_path / "out", engine={"kind": "ray", "workers": 7}))
    assert (again.made, again.result) == (0, first.result) and contents(tmp_path) == before


def test_another_config_is_refused(tiny_model: Path, tmp_path: Path) -> None:
    run(config_for(tiny_model, tmp_path / "out"))
    with pytest.raises(RunError, match="seed 0, now 1.*give another output"):
        run(config_for(tiny_model, tmp_path / "out", seed=1))
    run(config_for(tiny_model, tmp_path / "begun", part="1/3"))
    with pytest.raises(RunError, match="batch_size 3, now 4.*give another output or --fresh"):
        run(config_for(tiny_model, tmp_path / "begun", batch_size=4))
    assert run(config_for(tiny_model, tmp_path / "begun", batch_size=4), fresh=True).made == 14
    assert run(config_for(tiny_model, tmp_path / "out", seed=1), fresh=True).made == 14
    assert {path.name for path in tmp_path.iterdir()} == {"out", "out.run", "begun", "begun.run"}
    with DatasetWriter(tmp_path / "real", "real"):
        pass
    with pytest.raises(RunError, match="didn't make"):
        run(config_for(tiny_model, tmp_path / "real"), fresh=True)


def test_parts_make_up_the_whole(tiny_model: Path, tmp_path: Path) -> None:
    whole = run(config_for(tiny_model, tmp_path / "whole"))
    made = [run(config_for(tiny_model, tmp_path / "parts", part=part)).made for part in ("2/2", "1/2", "1/2")]
    assert made == [9, 5, 0] and not (tmp_path / "parts").exists()
    assert run(config_for(tiny_model, tmp_path / "parts")).made == 0
    assert contents(tmp_path / "parts") == {
        **contents(whole.dataset.path), "README.md": (tmp_path / "parts" / "README.md").read_bytes(),
        "croissant.json": (tmp_path / "parts" / "croissant.json").read_bytes(),
        "SHA256SUMS": (tmp_path / "parts" / "SHA256SUMS").read_bytes(),
    }  # fmt: skip


def test_parts_are_drawn_at_the_same_time_and_never_beside_the_whole(tiny_model: Path, tmp_path: Path) -> None:
    output, busy = tmp_path / "out", "out is being written by another process"
    with only_writer(output, shared=True):
        assert run(config_for(tiny_model, output, part="1/2")).made == 5
        with pytest.raises(RunError, match=busy):
            run(config_for(tiny_model, output))
    with only_writer(output), pytest.raises(RunError, match=busy):
        run(config_for(tiny_model, output, part="2/2"))
    assert run(config_for(tiny_model, output)).made == 9
    assert {path.name for path in tmp_path.iterdir()} == {"out", "out.run"}


def test_rejected_rows_get_other_seeds_and_what_is_given_up_is_listed(tiny_model: Path, tmp_path: Path) -> None:
    config = config_for(tiny_model, tmp_path / "out", rows=40, screen=ScreenConfig(), retries=1)
    done = run(config, opener=picky)
    result, records = done.result, done.dataset.records
    lost = [json.loads(line) for line in (tmp_path / "out" / "given_up.jsonl").read_text().splitlines()]
    assert 0 < result.given_up == len(lost) and result.images == len(records) == 40 - len(lost)
    assert {record.id for record in records} | {row["id"] for row in lost} == {
        f"{records[0].id[:-8]}{n:08d}" for n in range(40)
    }
    seeds = worker.Rows(worker.open_plan(config.plan, 0), "x", 0).seed_of
    for record in records:
        said = json.loads(record.screen)
        assert int(done.dataset.read(record).sum()) == said["values"]["sum"] and said["values"]["sum"] % 4 < 2
        assert record.seed == seeds(int(record.id[-8:]), said["attempt"])
    again = sum(json.loads(record.screen)["attempt"] for record in records)
    assert again > 0 and result.drawn == len(records) + again + 2 * len(lost)
    assert result.failed == {"distribution": again + 2 * len(lost)}
    for row in lost:
        number = int(row["id"][-8:])
        assert [attempt["seed"] for attempt in row["attempts"]] == [seeds(number, 0), seeds(number, 1)]
        assert all(attempt["failed"] == "distribution" for attempt in row["attempts"]) and row["prompt"]
    by_level = {row.condition: row for row in result.acceptance}
    assert by_level["any"].drawn == sum(by_level[f"sex: {sex}"].drawn for sex in ("female", "male")) == result.drawn
    assert all(row.asked == row.accepted + row.given_up for row in result.acceptance)
    # The screen of this test passes about half of all pictures, though nearly all rows: that shows.
    card = (tmp_path / "out" / "README.md").read_text()
    of_drawn, any_row = len(records) / result.drawn, by_level["any"]
    cells = (any_row.asked, any_row.accepted, f"{len(records) / 40:.1%}", len(lost), result.drawn, f"{of_drawn:.1%}")
    assert of_drawn < 0.7 and f"| any | {' | '.join(map(str, cells))} |" in card
    # A finding with each level of what else was asked; the levels of one attribute make up the finding.
    women, men = (by_level[f"finding: cardiomegaly, sex: {sex}"] for sex in ("female", "male"))
    assert women.drawn + men.drawn == by_level["finding: cardiomegaly"].drawn and 0 < women.asked < 14
    assert [row.condition for row in result.acceptance][:2] == ["any", "finding: cardiomegaly"]


def test_where_nothing_passes_all_is_given_up(tiny_model: Path, tmp_path: Path) -> None:
    done = run(config_for(tiny_model, tmp_path / "out", screen=ScreenConfig(), retries=1), opener=never)
    assert (done.result.images, done.result.given_up, done.result.drawn) == (0, 14, 28)
    assert len(Dataset.open(tmp_path / "out")) == 0


def test_a_counterfactual_group_stands_or_falls_together(tiny_model: Path, tmp_path: Path) -> None:
    base = {"kind": "balanced", "rows": 11, "findings": ["No Finding"], "age": [[40, 80]]}
    plan = {"kind": "counterfactual", "of": base, "attribute": "sex", "values": ["female", "male"]}
    config = config_for(tiny_model, tmp_path / "out", plan=plan, screen=ScreenConfig(), retries=3)
    done = run(config, opener=picky)
    groups: dict[str, list] = {}
    for record in done.dataset.records:
        groups.setdefault(record.patient, []).append(record)
    assert 0 < len(groups) <= 11
    for members in groups.values():
        assert len(members) == 2 and len({m.seed for m in members}) == 1 and len({m.shard for m in members}) == 1
        assert [m.condition.sex for m in members] == ["female", "male"]
        assert members[0].condition.model_copy(update={"sex": None}) == members[1].condition.model_copy(
            update={"sex": None}
        )


def test_labels_say_only_what_the_model_was_told(
    tiny_model: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    plan = {"kind": "balanced", "rows": 4, "findings": ["Pacemaker", "Cardiomegaly"], "race": ["black"]}
    done = run(config_for(tiny_model, tmp_path / "out", plan=plan))
    assert [list(record.condition.findings) for record in done.dataset.records] == [[], ["Cardiomegaly"]] * 2
    assert {record.condition.race for record in done.dataset.records} == {None}
    assert done.result.unseen == {"black": 4, "pacemaker": 2} and "never saw 'black', 'pacemaker'" in caplog.text


@pytest.mark.parametrize(
    "plan",
    [
        {"kind": "decorrelated", "rows": 8, "finding": "Cardiomegaly", "confounder": "Pacemaker"},
        {"kind": "counterfactual", "of": {**BALANCED, "rows": 2}, "attribute": "race", "values": ["black", "white"]},
    ],
)
def test_a_contrast_the_model_has_no_words_for_is_a_mistake(tiny_model: Path, tmp_path: Path, plan: dict) -> None:
    with pytest.raises(ConfigError, match="no words for what is contrasted"):
        run(config_for(tiny_model, tmp_path / "out", plan=plan))


def test_a_picture_that_is_not_finite_costs_itself(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = config_for(tiny_model, tmp_path / "out", retries=0)
    bad = worker.Rows(worker.open_plan(config.plan, 0), "x", 0).seed_of(4)
    real = generate.image_noise

    def noise(seeds: Sequence[int], shape: tuple[int, ...]) -> object:
        made = real(seeds, shape)
        for place, seed in enumerate(seeds):
            if seed == bad:
                made[place] = float("nan")
        return made

    monkeypatch.setattr(generate, "image_noise", noise)
    done = run(config)
    assert done.result.failed == {"broken": 1} and done.result.images == 13
    assert json.loads((tmp_path / "out" / "given_up.jsonl").read_text())["id"].endswith("-00000004")


def test_another_model_is_refused(tiny_model: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="model_hash"):
        run(config_for(tiny_model, tmp_path / "out", model_hash="0"))
    with pytest.raises(ConfigError, match="licence is missing"):
        load_config(
            SynthesizeConfig, None, ["plan={kind: balanced, rows: 1, findings: [edema]}", "output=o", "model=m"]
        )
    with pytest.raises(ConfigError, match="part = '4/3'"):
        config_for(tiny_model, tmp_path / "out", part="4/3")


def test_precision_is_settled_before_anything_is_drawn(tiny_model: Path, tmp_path: Path) -> None:
    here = "bfloat16" if bfloat16_is_faster(cuda=False) else "float32"
    auto = config_for(tiny_model, tmp_path / "out", precision="auto", engine={"devices": ["cpu"]})
    done = run(auto)
    assert {json.loads(record.sampler)["precision"] for record in done.dataset.records} == {here}
    assert run(auto.model_copy(update={"precision": here})).made == 0
    other = {"float32": "bfloat16", "bfloat16": "float32"}[here]
    with pytest.raises(RunError, match=f"precision {here}, now {other}"):
        run(auto.model_copy(update={"precision": other}))


def test_dry_run_tells_and_leaves_nothing(tiny_model: Path, tmp_path: Path) -> None:
    lines = list(report(config_for(tiny_model, tmp_path / "out", rows=60)))
    assert lines[0] == "60 rows in 60 groups of 1"
    assert any("; 3 rows took 3 pictures, and 0 rows were given up" in line for line in lines)
    assert any(line.startswith("disk: ") for line in lines) and not any(tmp_path.iterdir())


def test_dry_run_counts_what_is_drawn_again(tiny_model: Path, tmp_path: Path) -> None:
    lines = report(config_for(tiny_model, tmp_path / "out", rows=60, screen=ScreenConfig()), never)
    assert any("; 3 rows took 9 pictures, and 3 rows were given up" in line for line in lines)


def test_a_full_disk_is_said_and_gone_on_from(tiny_model: Path, tmp_path: Path) -> None:
    whole = run(config_for(tiny_model, tmp_path / "whole"))
    before, limits = resource.getrlimit(resource.RLIMIT_FSIZE), (300, 20_000)  # not even the run folder; no shard
    assert max(map(len, contents(whole.dataset.path / "shards").values())) > limits[-1]
    for limit in limits:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))  # a write beyond it fails, as on a full disk
        try:
            with pytest.raises(RunError, match=f"out: the disk is full .{os.strerror(errno.EFBIG)}.; make room"):
                run(config_for(tiny_model, tmp_path / "out"))
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert not (tmp_path / "out").exists() and not list(tmp_path.rglob(".tmp-*-0*.tar"))
    run(config_for(tiny_model, tmp_path / "out"))
    for name, data in contents(whole.dataset.path / "shards").items():
        assert (tmp_path / "out" / "shards" / name).read_bytes() == data


class Driver:
    """Starts runs that have nothing to import and nothing to load (see synthesis_driver.py)."""

    def __init__(self, model: Path) -> None:
        root = Path(__file__).parent
        environment = os.environ | {"PYTHONPATH": str(root.parent), "OMP_NUM_THREADS": "1"}
        command = [sys.executable, str(root / "synthesis_driver.py"), str(model)]
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=environment,
        )

    def start(self, config: SynthesizeConfig) -> int:
        self._process.stdin.write(config.model_dump_json() + "\n")
        self._process.stdin.flush()
        return int(self._process.stdout.readline())

    def ended(self) -> int:
        return int(self._process.stdout.readline())

    def close(self) -> None:
        self._process.stdin.close()
        self._process.wait()


@pytest.mark.slow
def test_killed_at_any_moment_any_number_of_times_it_ends_with_the_same_bytes(tiny_model: Path, tmp_path: Path) -> None:
    def config(place: str) -> SynthesizeConfig:
        return config_for(tiny_model, tmp_path / place / "out", rows=40, shard_rows=2, batch_size=2)

    driver = Driver(tiny_model)
    driver.start(config("straight"))
    assert driver.ended() == 0
    began = time.monotonic()
    driver.start(config("timed"))
    assert driver.ended() == 0
    a_shard = (time.monotonic() - began) / 20
    straight = contents(tmp_path / "straight" / "out")
    assert contents(tmp_path / "timed" / "out") == straight

    def whole(place: str) -> None:
        driver.start(config(place))
        assert driver.ended() == 0
        assert contents(tmp_path / place / "out") == straight
        assert {path.name for path in (tmp_path / place).iterdir()} == {"out", "out.run"}

    def shards(place: str) -> int:
        return len(list((tmp_path / place).glob(".tmp-*.parts/*.json")))

    rng, kills, endings = random.Random(0), 0, 0
    while kills < 20:
        place = f"killed-{endings}"
        # So many shards further on, now and then when it puts the dataset together; and a little later.
        aim = 20 if kills % 5 == 0 else min(shards(place) + rng.randrange(4), 20)
        pid = driver.start(config(place))
        while shards(place) < aim and Path(f"/proc/{pid}").exists():
            time.sleep(0.002)
        time.sleep(rng.uniform(0, a_shard))
        with contextlib.suppress(ProcessLookupError):  # it was quicker
            os.kill(pid, signal.SIGKILL)
        code = driver.ended()
        assert code in (0, -signal.SIGKILL)
        kills += code != 0
        if (tmp_path / place / "out").exists():  # the next kills are of another run
            whole(place)
            endings += 1
    whole(f"killed-{endings}")
    driver.close()
    assert len(Dataset.open(tmp_path / "killed-0" / "out")) == 40


@pytest.mark.parametrize("failures", [None, ("images are copied",), ()])
def test_only_what_a_model_with_a_passing_audit_drew_is_exported_as_it_is(failures, tiny_model, tmp_path):
    shutil.copytree(tiny_model, tmp_path / "model")
    if failures is not None:
        record = AuditRecord(
            weights=load_model(tiny_model).hash, train="a", held_out="b", synthetic="c", alpha=0.01, excess=0.0,
            excess_low=-0.01, excess_high=0.01, membership=0.5, images=5000, held_out_patients=300, failures=failures,
        )  # fmt: skip
        bind_audit(tmp_path / "model", record)
    made = run(config_for(tmp_path / "model", tmp_path / "out", rows=5)).dataset
    plain = ExportConfig(dataset=made.path, to="imagefolder", output=tmp_path / "plain")
    if failures == ():
        assert export(plain) == 5
        return
    with pytest.raises(UserError, match="unaudited"):
        export(plain)
    assert export(plain.model_copy(update={"output": tmp_path / "told", "unaudited": True})) == 5
    assert "unaudited" in (tmp_path / "told" / "README.md").read_text().lower()
