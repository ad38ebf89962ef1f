import copy
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pydicom
import pytest
from conftest import drawn_chest
from hypothesis import given
from hypothesis import strategies as st
from published import radiograph

from synthcxr.conditions import Condition
from synthcxr.config import load_config
from synthcxr.data.dataset import Dataset
from synthcxr.data.decode import limit_size
from synthcxr.data.prepare import PrepareConfig, _split, run, split_of
from synthcxr.data.sources import PublishedRow
from synthcxr.data.sources.row import pseudonym
from synthcxr.data.verify import verify
from synthcxr.dicom.write import Provenance, write_dicom
from synthcxr.errors import ConfigError, RunError, SourceError, UserError
from synthcxr.images import write_png


def _source(root: Path, images: int = 20, damaged: int = 0) -> Path:
    root.mkdir(parents=True)
    rows = ["file_name,patient,age\n"]
    for index in range(images):
        path = root / f"{index}.png"
        if index < damaged:
            path.write_bytes(b"no image")
        else:
            write_png(path, drawn_chest(size=96, seed=index), None)
        rows.append(f"{index}.png,p{index // 2},{20 + index % 80}\n")
    (root / "metadata.csv").write_text("".join(rows))
    return root


def _config(tmp_path: Path, **changes) -> PrepareConfig:
    return PrepareConfig(
        **{"source": "folder", "root": tmp_path / "in", "output": tmp_path / "out", "workers": 1, **changes}
    )


def test_what_is_prepared_is_what_was_there(tmp_path):
    _source(tmp_path / "in")
    dataset = run(_config(tmp_path))
    assert verify(dataset.path) == [] and len(dataset) == 20
    for index, record in enumerate(dataset.records):
        assert np.array_equal(dataset.read(record), drawn_chest(size=96, seed=index))
        assert (record.condition.age, record.native_width) == (20 + index, 96)
        assert record.split == split_of(record.patient, 0.1, 0)
    assert str(tmp_path) not in (tmp_path / "out" / "dataset.json").read_text()


def test_the_same_command_again_does_nothing_and_another_is_refused(tmp_path):
    _source(tmp_path / "in")
    first = run(_config(tmp_path))
    before = (tmp_path / "out" / "manifest.parquet").stat().st_mtime_ns
    assert run(_config(tmp_path)).hash == first.hash
    assert (tmp_path / "out" / "manifest.parquet").stat().st_mtime_ns == before
    with pytest.raises(RunError, match="seed 0, now 1.*give another output"):
        run(_config(tmp_path, seed=1))
    shutil.copytree(tmp_path / "in", tmp_path / "elsewhere")
    with pytest.raises(RunError, match="another root"):
        run(_config(tmp_path, root=tmp_path / "elsewhere"))


def test_preparing_twice_with_the_same_secret_gives_the_same_dataset(tmp_path):
    _source(tmp_path / "in")
    (tmp_path / "again.key").write_text("ours")
    (tmp_path / "out.key").write_text("ours\n")
    assert run(_config(tmp_path)).hash == run(_config(tmp_path, output=tmp_path / "again", workers=3)).hash


def test_an_output_with_something_else_is_left_alone(tmp_path):
    _source(tmp_path / "in")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "precious.txt").write_text("x")
    with pytest.raises(RunError, match="holds no dataset"):
        run(_config(tmp_path))
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["precious.txt"]


def test_a_few_damaged_images_are_listed_and_left_out(tmp_path):
    _source(tmp_path / "in", damaged=1)
    assert len(run(_config(tmp_path))) == 19
    (line,) = (tmp_path / "out.quarantine.jsonl").read_text().splitlines()
    assert json.loads(line)["file"] == "0.png" and "0.png" in json.loads(line)["reason"]


def test_many_damaged_images_stop_it_with_nothing_half_written(tmp_path):
    _source(tmp_path / "in", damaged=2)
    with pytest.raises(SourceError, match="2 of 20 images can't be used.*quarantine.jsonl"):
        run(_config(tmp_path))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in", "out.quarantine.jsonl"]


def test_larger_images_are_reduced_and_keep_their_native_size(tmp_path):
    _source(tmp_path / "in", images=2)
    (record, _) = run(_config(tmp_path, max_size=64)).records
    assert (record.width, record.height, record.native_width) == (64, 64, 96)
    assert run(_config(tmp_path, max_size=64)).read(record).shape == (64, 64)


@given(st.integers(1, 300), st.integers(1, 300), st.integers(64, 128), st.sampled_from([np.uint8, np.uint16]))
def test_reducing_bounds_the_shorter_side_and_keeps_depth_and_level(height, width, max_size, dtype):
    level = int(np.iinfo(dtype).max) // 3
    reduced = limit_size(np.full((height, width), level, dtype), max_size)
    assert min(reduced.shape) == min(height, width, max_size) and reduced.dtype == dtype
    assert np.all(reduced == level)
    assert abs(reduced.shape[0] / reduced.shape[1] - height / width) < 0.02 * height / width + 0.02


@given(st.text(), st.integers(0, 5), st.floats(0, 0.49), st.floats(0, 0.49))
def test_a_larger_holdout_only_moves_patients_out_of_training(patient, seed, one, other):
    small, large = sorted((one, other))
    kept = split_of(patient, small, seed)
    assert kept == "train" or split_of(patient, large, seed) == kept


def test_splits_have_the_shares_asked_for():
    splits = [split_of(f"nih-{n}", 0.1) for n in range(5000)]
    for name, share in (("train", 0.8), ("validate", 0.1), ("test", 0.1)):
        assert splits.count(name) / len(splits) == pytest.approx(share, abs=0.015)


def test_bad_configs_are_one_line():
    with pytest.raises(UserError, match="source = 'nhi' must be one of .*did you mean 'nih'"):
        load_config(PrepareConfig, None, ["source=nhi", "root=a", "output=b"])
    with pytest.raises(ConfigError, match="holdout = 0.5 must be < 0.5"):
        load_config(PrepareConfig, None, ["source=nih", "root=a", "output=b", "holdout=0.5"])
    with pytest.raises(ConfigError, match="output is missing"):
        load_config(PrepareConfig, None, ["source=nih", "root=a"])


def test_real_radiographs_prepare_and_read_back(cxr_open, tmp_path):
    run(PrepareConfig(source="hannover", root=cxr_open / "hannover", output=tmp_path / "out", max_size=128))
    dataset = Dataset.open(tmp_path / "out")
    assert len(dataset) == 243 and verify(dataset.path) == []
    assert {min(record.width, record.height) for record in dataset.records} == {128}
    assert dataset.info["counts"]["patients"] == 71


DRIVER = """
import resource, sys
from pathlib import Path
import synthcxr.data.prepare as prepare
prepare.SHARD_ROWS = int(sys.argv[3])
prepare.run(prepare.PrepareConfig(source="folder", root=Path(sys.argv[1]), output=Path(sys.argv[2]), workers=2))
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def _process(root: Path, output: Path, shard_rows: int) -> subprocess.Popen:
    command = [sys.executable, "-c", DRIVER, str(root), str(output), str(shard_rows)]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])}
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)


def test_killed_at_any_time_it_ends_with_the_same_bytes(tmp_path):
    _source(tmp_path / "in", images=60, damaged=1)
    for name in ("straight/out", "killed/out", "again"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / f"{name}.key").write_text("ours")
    run(_config(tmp_path, output=tmp_path / "straight" / "out"))
    whole = _process(tmp_path / "in", tmp_path / "again", 10)
    assert whole.wait() == 0, whole.stderr.read()
    rng = random.Random(0)
    for parts in (0, 1, 3, 5):  # killed once so many shards are done, and a little later
        process = _process(tmp_path / "in", tmp_path / "killed" / "out", 10)
        while len(list((tmp_path / "killed").glob(".tmp-*.parts/*.json"))) < parts and process.poll() is None:
            time.sleep(0.002)
        time.sleep(rng.uniform(0, 0.1))
        process.kill()
        process.wait()
    process = _process(tmp_path / "in", tmp_path / "killed" / "out", 10)
    assert process.wait() == 0, process.stderr.read()
    for file in ("manifest.parquet", "shards/00003.tar"):
        assert (tmp_path / "killed" / "out" / file).read_bytes() == (tmp_path / "again" / file).read_bytes()
    dataset = Dataset.open(tmp_path / "killed" / "out")
    assert verify(dataset.path) == [] and len(dataset) == 59
    beside = {"out.key", "out.names.jsonl", "out.quarantine.jsonl"}
    assert {path.name for path in (tmp_path / "killed").iterdir()} == {"out", *beside}
    # How many rows a shard has is all that differs from the dataset that was prepared in this process.
    other = Dataset.open(tmp_path / "straight" / "out")
    assert [record.sha256 for record in dataset.records] == [record.sha256 for record in other.records]


def test_files_that_change_while_it_is_interrupted_are_read_again(tmp_path):
    _source(tmp_path / "in", images=30)
    process = _process(tmp_path / "in", tmp_path / "out", 10)
    while not list(tmp_path.glob(".tmp-*.parts/00001*.json")) and process.poll() is None:
        time.sleep(0.002)
    process.kill()
    process.wait()
    write_png(tmp_path / "in" / "3.png", drawn_chest(size=96, seed=99), None)
    process = _process(tmp_path / "in", tmp_path / "out", 10)
    assert process.wait() == 0, process.stderr.read()
    assert np.array_equal(
        Dataset.open(tmp_path / "out").read(Dataset.open(tmp_path / "out").records[3]), drawn_chest(size=96, seed=99)
    )


@pytest.mark.slow
def test_memory_is_flat_in_the_number_of_images(tmp_path):
    peaks = {}
    for count in (200, 2000):
        _source(tmp_path / f"in-{count}", images=count)
        process = _process(tmp_path / f"in-{count}", tmp_path / f"out-{count}", 100)
        said, errors = process.communicate()
        assert process.returncode == 0, errors
        peaks[count] = int(said)
    assert peaks[2000] <= 1.1 * peaks[200], peaks


def test_a_patient_only_a_header_tells_of_becomes_a_pseudonym(tmp_path):
    for index in range(4):
        who = {"PatientID": f"MRN-{index}", "PatientAge": "060Y", "PatientSex": "F", "ViewPosition": "PA"}
        radiograph(tmp_path / "in" / f"{index}.dcm", f"1.2.3.{index}", **who)
    datasets = [run(_config(tmp_path, source="dicom", output=tmp_path / name)) for name in ("a", "b")]
    patients = [[record.patient for record in dataset.records] for dataset in datasets]
    assert len(set(patients[0])) == 4 and not set(patients[0]) & set(patients[1])  # each dataset has its own secret
    key = (tmp_path / "a.key").read_text().strip()
    assert len(key) == 64 and (tmp_path / "a.key").stat().st_mode & 0o077 == 0
    held = b"".join(path.read_bytes() for path in (tmp_path / "a").rglob("*") if path.is_file())
    assert key.encode() not in held and b"MRN" not in held
    assert {(r.condition.age, r.condition.sex, r.condition.view) for r in datasets[0].records} == {(60, "female", "PA")}


def test_no_name_of_ones_own_table_or_folder_reaches_a_dataset(tmp_path, caplog):
    write_png(tmp_path / "in" / "Doe_Jane" / "MRN7654321.png", drawn_chest(), None)
    (tmp_path / "in" / "metadata.csv").write_text(
        "file_name,patient,study,age,report\nDoe_Jane/MRN7654321.png,Jane Doe,20110304,93,93 year old; Dr. Ann Roe.\n"
    )
    dataset = run(_config(tmp_path))
    (record,) = dataset.records
    told = caplog.text + "".join(map(str, (tmp_path / "out").rglob("*")))
    told += b"".join(path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file()).decode("latin-1")
    told += str(dataset.table.to_pylist())
    assert not [name for name in ("Doe", "Jane", "7654321", "20110304", "93 year", "Ann", "Roe") if name in told]
    # With the secret, which stays beside the dataset, the way back is there.
    key = (tmp_path / "out.key").read_text().strip()
    names = tmp_path / "out.names.jsonl"
    assert json.loads(names.read_text()) == {"id": record.id, "file": "Doe_Jane/MRN7654321.png"}
    assert names.stat().st_mode & 0o077 == 0
    assert record.id == f"folder-{pseudonym(key, 'Doe_Jane/MRN7654321.png')}"
    assert record.patient == f"own-{pseudonym(key, 'Jane Doe')}" and record.condition.age == 90


def _reasons(tmp_path: Path) -> dict[str, str]:
    lines = (tmp_path / "out.quarantine.jsonl").read_text().splitlines()
    return {row["file"]: row["reason"] for row in map(json.loads, lines)}


def test_what_is_marked_as_synthetic_or_shows_a_name_never_becomes_a_real_image(tmp_path):
    origin = Provenance(prompt="", model_prompt="", seed=0, model="m", model_name="m", sampler="{}")
    write_dicom(tmp_path / "in" / "ours.dcm", drawn_chest(), Condition(), origin)
    ours = pydicom.dcmread(tmp_path / "in" / "ours.dcm")
    for name, keyword in (("equipment", "SyntheticData"), ("flag", "ContributingEquipmentSequence")):
        one = copy.deepcopy(ours)
        delattr(one, keyword)
        one.save_as(tmp_path / "in" / f"{name}.dcm", enforce_file_format=True)
    radiograph(tmp_path / "in" / "burned.dcm", "1.2.3", BurnedInAnnotation="YES")
    radiograph(tmp_path / "in" / "clean.dcm", "1.2.4", BurnedInAnnotation="NO")
    assert len(run(_config(tmp_path, source="dicom"))) == 1
    reasons = _reasons(tmp_path)
    assert "synthetic (SyntheticData YES)" in reasons["ours.dcm"] and "SyntheticData" in reasons["flag.dcm"]
    assert "synthetic (Synthesizing Equipment)" in reasons["equipment.dcm"]
    assert "BurnedInAnnotation is YES" in reasons["burned.dcm"] and len(reasons) == 4


def test_a_folder_of_generated_pictures_gives_no_real_dataset(tmp_path):
    for index in range(3):
        write_png(tmp_path / "in" / f"{index}.png", drawn_chest(seed=index), {"seed": index})
    (tmp_path / "in" / "metadata.jsonl").write_text("".join(f'{{"file_name": "{i}.png"}}\n' for i in range(3)))
    with pytest.raises(SourceError, match="none of the 3 images may be used.*quarantine.jsonl says why"):
        run(_config(tmp_path))
    assert not (tmp_path / "out").exists() and all("'synthcxr'" in reason for reason in _reasons(tmp_path).values())


def test_two_runs_at_once_dont_write_the_same_dataset(tmp_path):
    _source(tmp_path / "in", images=60)
    first = _process(tmp_path / "in", tmp_path / "out", 10)
    while not list(tmp_path.glob(".tmp-*.parts/*.json")) and first.poll() is None:
        time.sleep(0.002)
    os.kill(first.pid, signal.SIGSTOP)
    try:
        with pytest.raises(RunError, match="out is being written by another process"):
            run(_config(tmp_path))
    finally:
        first.kill()
    first.wait()
    assert list(tmp_path.glob(".tmp-*.lock"))  # what a killed process leaves is no lock
    assert len(run(_config(tmp_path))) == 60 and not list(tmp_path.glob(".tmp-*.lock"))


def test_what_killed_ones_left_half_written_goes(tmp_path):
    _source(tmp_path / "in")
    halves = [f".tmp-0123abcd-out{suffix}" for suffix in (".key", ".names.jsonl", ".quarantine.jsonl")]
    others = [".tmp-0123abcd-out.mine.names.jsonl", ".tmp-0123abcd-another.names.jsonl", ".tmp-notes-out.key"]
    for name in (*halves, *others):
        (tmp_path / name).write_text("half a li")
    run(_config(tmp_path))
    kept = {"in", "out", "out.key", "out.names.jsonl", *others}
    assert {path.name for path in tmp_path.iterdir()} == kept
    # Killed when the dataset had just appeared, it leaves what the shards were made from.
    (tmp_path / ".tmp-0123456789abcdef-out.parts").mkdir()
    (tmp_path / ".tmp-0123456789abcdef-out.parts" / "00000.tar.json").write_text("{}")
    run(_config(tmp_path))
    assert {path.name for path in tmp_path.iterdir()} == kept


def test_the_publishers_split_is_kept_where_it_is_asked_for():
    config = PrepareConfig(source="vindr", root="a", output="b", split="publisher")
    row = {"path": "a", "id": "a", "study": "s", "condition": Condition(), "source": "vindr", "licence": "x"}
    for patient in map(str, range(40)):
        hashed = split_of(patient, 0.1)
        for hint, expected in (("test", "test"), (None, hashed), ("train", "train")):
            assert _split(PublishedRow(**row, patient=patient, split=hint), patient, config) == expected
        development = _split(PublishedRow(**row, patient=patient, split="development"), patient, config)
        assert development == ("train" if hashed == "train" else "validate")
        by_hash = config.model_copy(update={"split": "hash"})
        assert _split(PublishedRow(**row, patient=patient, split="test"), patient, by_hash) == hashed
