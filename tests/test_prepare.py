import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from conftest import drawn_chest
from hypothesis import given
from hypothesis import strategies as st

from synthcxr.config import load_config
from synthcxr.data.dataset import Dataset
from synthcxr.data.prepare import PrepareConfig, limit_size, run, split_of
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
        rows.append(f"{index}.png,p{index // 2},{20 + index}\n")
    (root / "metadata.csv").write_text("".join(rows))
    return root


def _config(tmp_path: Path, **changes) -> PrepareConfig:
    return PrepareConfig(**{"source": "folder", "root": tmp_path / "in", "output": tmp_path / "out", **changes})


def test_what_is_prepared_is_what_was_there(tmp_path):
    _source(tmp_path / "in")
    dataset = run(_config(tmp_path))
    assert dataset.verify() == [] and len(dataset) == 20
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


def test_preparing_twice_gives_the_same_dataset(tmp_path):
    _source(tmp_path / "in")
    assert run(_config(tmp_path)).hash == run(_config(tmp_path, output=tmp_path / "again")).hash


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
    assert len(dataset) == 243 and dataset.verify() == []
    assert {min(record.width, record.height) for record in dataset.records} == {128}
    assert dataset.info["counts"]["patients"] == 71
