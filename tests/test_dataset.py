import io
import json
import pickle
import tarfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import drawn_chest
from hypothesis import given, settings
from hypothesis import strategies as st

from synthcxr.conditions import Condition, Finding, FindingState
from synthcxr.data.dataset import Dataset
from synthcxr.data.record import SCHEMA, Record, records_of
from synthcxr.data.verify import verify
from synthcxr.data.writer import DatasetWriter
from synthcxr.errors import DatasetError, UserError
from synthcxr.images import read_image, read_provenance

WHO = {"patient": "p", "study": "s", "split": "train", "source": "drawn", "licence": "CC0"}
STATES = st.builds(
    FindingState,
    state=st.sampled_from(["present", "absent", "uncertain"]),
    side=st.sampled_from([None, "left", "right", "bilateral"]),
    severity=st.sampled_from([None, "mild", "severe"]),
)
CONDITIONS = st.builds(
    Condition,
    findings=st.dictionaries(st.sampled_from([f for f in Finding if f is not Finding.NO_FINDING]), STATES, max_size=4),
    age=st.none() | st.integers(0, 120),
    sex=st.sampled_from([None, "female", "male"]),
    race=st.sampled_from([None, "asian", "black", "white", "hispanic"]),
    view=st.sampled_from([None, "PA", "AP", "LATERAL"]),
    text=st.none() | st.text(),
)
RECORDS = st.builds(
    Record,
    id=st.from_regex(r"[A-Za-z0-9_-]{1,90}", fullmatch=True),
    shard=st.just("00000.tar"),
    offset=st.integers(0, 2**62),
    size=st.integers(1, 2**31),
    sha256=st.text(),
    width=st.integers(1, 4096),
    height=st.integers(1, 4096),
    bits=st.sampled_from([8, 16]),
    native_width=st.integers(1, 4096),
    native_height=st.integers(1, 4096),
    condition=CONDITIONS,
    seed=st.none() | st.integers(0, 2**63 - 1),
    report=st.none() | st.text(),
    prompt=st.none() | st.text(),
)


@given(st.lists(RECORDS, max_size=3))
def test_records_survive_the_manifest(records):
    rows = [record.to_row() for record in records]
    table = pa.table({name: [row[name] for row in rows] for name in SCHEMA.names}, schema=SCHEMA)
    assert list(records_of(table)) == records


@settings(max_examples=20)
@given(st.lists(st.tuples(st.integers(1, 40), st.integers(1, 40), st.booleans()), min_size=1, max_size=7))
def test_pixels_come_back_exactly_whatever_the_size_and_depth(tmp_path_factory, shapes):
    rng = np.random.default_rng(0)
    images = [
        rng.integers(0, 65536 if deep else 256, (height, width), dtype=np.uint16 if deep else np.uint8)
        for height, width, deep in shapes
    ]
    with DatasetWriter(tmp_path_factory.mktemp("d") / "out", origin="real", shard_rows=3) as writer:
        for index, pixels in enumerate(images):
            writer.add(pixels, id=str(index), **WHO)
    dataset = Dataset.open(writer.path)
    assert verify(dataset.path) == []
    for record, pixels in zip(dataset.records, images, strict=True):
        back = dataset.read(record)
        assert back.dtype == pixels.dtype and np.array_equal(back, pixels)
        assert (record.height, record.width, record.bits) == (*pixels.shape, 8 * pixels.itemsize)


def test_a_dataset_reads_as_webdataset(tiny_dataset):
    by_id = {record.id: record for record in tiny_dataset.records}
    found = set()
    for shard in sorted((tiny_dataset.path / "shards").iterdir()):
        with tarfile.open(shard) as tar:
            for member in tar:
                key, extension = member.name.split(".", 1)
                data = tar.extractfile(member).read()
                found.add((key, extension))
                assert (member.mtime, member.uid, member.gid) == (0, 0, 0)
                if extension == "png":
                    assert member.offset_data == by_id[key].offset and data == tiny_dataset.read_bytes(by_id[key])
                else:
                    said = json.loads(data)
                    assert Condition(**said["condition"]) == by_id[key].condition
                    assert said["patient"] == by_id[key].patient
    assert found == {(key, extension) for key in by_id for extension in ("png", "json")}


def test_equal_input_gives_equal_bytes(tmp_path):
    for name in ("a/same", "b/same"):
        with DatasetWriter(tmp_path / name, origin="real", shard_rows=2) as writer:
            for index in range(3):
                writer.add(drawn_chest(seed=index), id=f"i{index}", **WHO)
    files = sorted(p.relative_to(tmp_path / "a") for p in (tmp_path / "a").rglob("*") if p.is_file())
    assert len(files) == 7
    for file in files:
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


def test_splits_are_those_of_patients(tiny_dataset):
    parts = [tiny_dataset.split(name) for name in ("train", "validate", "test")]
    assert [len(part) for part in parts] == [8, 2, 2]
    patients = [{record.patient for record in part} for part in parts]
    assert not (patients[0] & patients[1] or patients[0] & patients[2] or patients[1] & patients[2])
    with pytest.raises(DatasetError, match="did you mean 'validate'"):
        tiny_dataset.split("validation")


def test_a_patient_in_two_splits_is_refused_when_written_and_when_opened(tmp_path):
    with pytest.raises(DatasetError, match="'p'.*more than one split"):
        with DatasetWriter(tmp_path / "out", origin="real") as writer:
            writer.add(drawn_chest(), id="a", **WHO)
            writer.add(drawn_chest(), id="b", **{**WHO, "split": "test"})
    assert list(tmp_path.iterdir()) == []
    table = _altered(tmp_path, "split", ["train", "test"])
    with pytest.raises(DatasetError, match="more than one split"):
        Dataset.open(table)


@pytest.mark.parametrize("shard", ["../../secret.tar", "/etc/passwd", "00000.zip"])
def test_a_manifest_points_at_no_file_outside(tmp_path, shard):
    with pytest.raises(DatasetError, match="must be a name such as 00000.tar"):
        Dataset.open(_altered(tmp_path, "shard", [shard, shard]))


@pytest.mark.parametrize(
    ("column", "values", "message"),
    [
        ("split", ["train", "dev"], "must be one of"),
        ("id", ["a", "a"], "unique"),
        ("findings", ["{", "{"], "must be JSON"),
    ],
)
def test_a_manifest_that_contradicts_itself_is_named(tmp_path, column, values, message):
    with pytest.raises(UserError, match=message):
        _ = Dataset.open(_altered(tmp_path, column, values)).records


def test_nothing_appears_when_writing_fails(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        with DatasetWriter(tmp_path / "out", origin="real") as writer:
            writer.add(drawn_chest(), id="a", **WHO)
            raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []


def _write(path, keys, stop=None, resume="a-config"):
    """Two images a shard, none where the key is "none"; `stop` is where it ends. Numbers of those written."""
    written = []
    with DatasetWriter(path, origin="real", resume=resume) as writer:
        for number, key in enumerate(keys):
            if part := writer.part(number, key):
                assert part.notes == [key]
                continue
            with writer.shard(number, key) as shard:
                for index in range(0 if key == "none" else 2):
                    shard.add(drawn_chest(seed=number), id=f"{key}-{index}", **WHO)
                    if number == stop:
                        raise KeyboardInterrupt
                shard.note(key)
            written.append(number)
    return written


def test_an_interrupted_writer_is_gone_on_with(tmp_path):
    keys = ["a", "none", "b", "c"]
    assert _write(tmp_path / "straight", keys) == [0, 1, 2, 3]
    for stop in (2, 3):
        with pytest.raises(KeyboardInterrupt):
            _write(tmp_path / "out", keys, stop)
        assert not (tmp_path / "out").exists()
    assert _write(tmp_path / "out", keys) == [3]
    files = {p.relative_to(tmp_path / "straight") for p in (tmp_path / "straight").rglob("*.*")}
    assert {file.name for file in files if file.suffix == ".tar"} == {"00000.tar", "00002.tar", "00003.tar"}
    for file in files - {Path("README.md"), Path("croissant.json")}:  # which say the name
        assert (tmp_path / "out" / file).read_bytes() == (tmp_path / "straight" / file).read_bytes()
    assert verify(tmp_path / "out") == []
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "straight"]


def test_what_was_made_from_something_else_is_not_gone_on_with(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        _write(tmp_path / "out", ["a", "b", "c", "d"], stop=3)
    assert _write(tmp_path / "out", ["a", "e"]) == [1]
    dataset = Dataset.open(tmp_path / "out")
    assert [record.id for record in dataset.records] == ["a-0", "a-1", "e-0", "e-1"] and verify(dataset.path) == []
    assert sorted(path.name for path in (tmp_path / "out" / "shards").iterdir()) == ["00000.tar", "00001.tar"]


def test_a_mistake_leaves_nothing_to_go_on_with(tmp_path):
    with pytest.raises(DatasetError):
        _write(tmp_path / "out", ["a", "not.an.id"])
    assert list(tmp_path.iterdir()) == []


def test_an_output_that_holds_something_is_left_alone(tmp_path):
    (tmp_path / "precious.txt").write_text("x")
    with pytest.raises(DatasetError, match="isn't empty"):
        with DatasetWriter(tmp_path, origin="real"):
            pass
    assert [path.name for path in tmp_path.iterdir()] == ["precious.txt"]


@pytest.mark.parametrize("bad", ["a.b", "", "a/b", "ä", "x" * 91, "a\n"])
def test_ids_that_webdataset_would_cut_are_refused(tmp_path, bad):
    with pytest.raises(DatasetError, match="must be 1 to 90 letters"):
        with DatasetWriter(tmp_path / "out", origin="real") as writer:
            writer.add(drawn_chest(), id=bad, **WHO)


def test_an_id_comes_once(tmp_path):
    with pytest.raises(DatasetError, match="'a' comes twice"):
        with DatasetWriter(tmp_path / "out", origin="real") as writer:
            writer.add(drawn_chest(), id="a", **WHO)
            writer.add(drawn_chest(), id="a", **WHO)


def test_synthetic_images_carry_their_marks_and_real_ones_none(tmp_path):
    for origin in ("real", "synthetic"):
        with DatasetWriter(tmp_path / origin, origin=origin) as writer:
            writer.add(drawn_chest(), id="a", **WHO, prompt="PA view.", seed=7, model="abc")
        data = writer.dataset.read_bytes(writer.dataset.records[0])
        marks = read_provenance(data)
        if origin == "real":
            assert marks is None
        else:
            assert (marks["prompt"], marks["seed"], marks["model"]) == ("PA view.", 7, "abc")
            assert "synthetic" in (tmp_path / origin / "README.md").read_text()
        assert np.array_equal(read_image(data), drawn_chest())


def test_a_shard_that_is_cut_off_is_named(tmp_path):
    dataset = Dataset.open(_small(tmp_path))
    shard = dataset.path / "shards" / "00000.tar"
    shard.write_bytes(shard.read_bytes()[: dataset.records[1].offset + 10])
    with pytest.raises(DatasetError, match="ends before image b"):
        dataset.read(dataset.records[1])


def test_a_folder_that_is_no_dataset_is_said_to_be_none(tmp_path):
    with pytest.raises(DatasetError, match="isn't a dataset"):
        Dataset.open(tmp_path)
    with pytest.raises(DatasetError, match="isn't a dataset"):
        Dataset.open(tmp_path / "absent")
    path = _small(tmp_path)
    (path / "manifest.parquet").write_bytes(b"not parquet")
    with pytest.raises(DatasetError, match="manifest.parquet must be"):
        Dataset.open(path)
    info = json.loads((path / "dataset.json").read_text())
    for text in ("[]", "{", json.dumps({**info, "schema_version": 99})):
        (path / "dataset.json").write_text(text)
        with pytest.raises(DatasetError, match="dataset.json"):
            Dataset.open(path)


def test_a_dataset_travels_to_another_process(tiny_dataset):
    other = pickle.loads(pickle.dumps(tiny_dataset))
    assert np.array_equal(other.read(other.records[3]), tiny_dataset.read(tiny_dataset.records[3]))


def test_the_card_has_no_blank_field(tiny_dataset):
    card = (tiny_dataset.path / "README.md").read_text()
    assert "12 chest radiographs (real), 6 patients" in card and "| drawn | CC0 |" in card
    assert not any(line.rstrip().endswith(":") for line in card.splitlines())


def test_an_empty_dataset_is_one(tmp_path):
    with DatasetWriter(tmp_path / "out", origin="real") as writer:
        pass
    assert len(writer.dataset) == 0 and writer.dataset.records == [] and verify(writer.dataset.path) == []


def test_ten_thousand_rows_open_quickly(tmp_path):
    path = _small(tmp_path)
    table = pq.read_table(path / "manifest.parquet")
    many = pa.concat_tables([table] * 5000)
    many = many.set_column(0, many.schema.field("id"), pa.array([f"i{n}" for n in range(len(many))]))
    pq.write_table(many, path / "manifest.parquet")
    start = time.process_time()
    records = Dataset.open(path).records
    assert len(records) == 10_000 and records[0].condition.findings
    assert time.process_time() - start < 2


def _small(folder: Path) -> Path:
    with DatasetWriter(folder / "small", origin="real") as writer:
        for image_id in ("a", "b"):
            pixels = drawn_chest(seed=ord(image_id))
            writer.add(pixels, id=image_id, condition=Condition(findings=["Edema"]), **WHO)
    return writer.path


def _altered(folder: Path, column: str, values: list[str]) -> Path:
    path = _small(folder)
    table = pq.read_table(path / "manifest.parquet")
    index = table.schema.get_field_index(column)
    altered = table.set_column(index, table.schema.field(index), pa.array(values))
    sink = io.BytesIO()
    pq.write_table(altered, sink)
    (path / "manifest.parquet").write_bytes(sink.getvalue())
    return path
