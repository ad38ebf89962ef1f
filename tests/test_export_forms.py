"""Each form of an export, read back with the library that its users read it with; its card, metadata and sums."""

import csv
import json
import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import drawn_chest
from PIL import Image

from synthcxr.conditions import Condition
from synthcxr.data.csv_table import safe_cell, write_csv
from synthcxr.data.dataset import Dataset
from synthcxr.data.prepare import PrepareConfig
from synthcxr.data.prepare import run as prepare
from synthcxr.data.verify import verify
from synthcxr.data.writer import DatasetWriter
from synthcxr.errors import DatasetError
from synthcxr.images import read_provenance
from synthcxr.synthesis.export import job, webdataset
from synthcxr.synthesis.export.formats import FORMATS
from synthcxr.synthesis.export.nih_csv import COLUMNS, TABLE
from synthcxr.synthesis.export.run import ExportConfig, run

MODEL = "ab" * 32
SPLITS = ("train", "train", "validate", "test", "train")
HUB = ("train", "train", "validation", "test", "train")
ACCEPTANCE = [
    {"condition": "Edema | AP", "asked": 6, "accepted": 5, "given_up": 1, "drawn": 9},
    {"condition": "any", "asked": 6, "accepted": 6, "given_up": 0},  # before it was told how many were drawn
]
PASSED = {"audit": {MODEL: {"passed": True, "excess": 0.001}}}
FORMS = sorted(FORMATS)
REAL_FORMS = [name for name in FORMS if name != "dicom"]


def drawn(path: Path, origin: str = "synthetic", extra: dict | None = None, **changed: object) -> Dataset:
    """Five images, one of 16 bits; an id, a prompt and a report that a spreadsheet would take for formulas."""
    extra = extra if extra is not None else {"synthesize": {"acceptance": ACCEPTANCE}, **PASSED}
    synthetic = {"seed": 7, "model": MODEL, "sampler": '{"steps": 20}'} if origin == "synthetic" else {}
    with DatasetWriter(path, origin=origin, extra=extra, shard_rows=3) as writer:
        for index, split in enumerate(SPLITS):
            pixels = drawn_chest(32, seed=index)
            findings = (["Edema", "Pleural Effusion"], ["No Finding"], ["Edema", "Pacemaker"])[index % 3]
            row = {
                "condition": Condition(age=50 + index if index else None, sex="male", view="AP", findings=findings),
                "prompt": "=1+1" if index == 1 else None, "report": "@SUM(A1)" if index == 3 else None,
                **synthetic, **changed,
            }  # fmt: skip
            writer.add(
                pixels.astype(np.uint16) * 257 if index == 3 else pixels,
                id="-i0" if index == 0 else f"i{index}", patient="p0" if index == 4 else f"p{index}",
                study=f"s{index}", split=split, source="drawn", licence="CC0", **row,
            )  # fmt: skip
    return writer.dataset


@pytest.fixture(scope="module")
def synthetic(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return drawn(tmp_path_factory.mktemp("synthetic") / "data")


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return drawn(tmp_path_factory.mktemp("real") / "data", "real", {})


@pytest.fixture(scope="module")
def exported(synthetic: Dataset, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Every form of the synthetic dataset."""
    folder = tmp_path_factory.mktemp("exported")
    for name in FORMS:
        assert run(ExportConfig(dataset=synthetic.path, to=name, output=folder / name)) == 5
    return {name: folder / name for name in FORMS}


@pytest.fixture
def offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """`datasets`, which neither asks the network nor writes outside the test's folder."""
    os.environ.setdefault("HF_DATASETS_OFFLINE", "1")
    datasets = pytest.importorskip("datasets")
    datasets.disable_progress_bars()
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
    return datasets


def contents(folder: Path) -> dict[str, bytes]:
    """All but what tells of the run itself."""
    names = {"config.yaml", "environment.json", "log.jsonl", "SHA256SUMS", "README.md", "croissant.json"}
    files = [path for path in folder.rglob("*") if path.is_file() and path.name not in names]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


@pytest.mark.parametrize("form", ["imagefolder", "parquet"])
def test_datasets_reads_images_and_columns(synthetic: Dataset, exported: dict[str, Path], offline, form: str) -> None:
    read = offline.load_dataset(form, data_dir=str(exported[form]))
    assert {name: len(split) for name, split in read.items()} == {"train": 3, "validation": 1, "test": 1}
    assert isinstance(read["train"].features["image"], offline.Image)
    rows = {row["id"]: (split, row) for split in read for row in read[split]}
    for record, split in zip(synthetic.records, HUB, strict=True):
        name, row = rows[record.id]
        assert name == split and np.array_equal(np.asarray(row["image"]), synthetic.read(record))
        assert (row["age"], row["sex"], row["origin"], row["seed"]) == (record.condition.age, "male", "synthetic", 7)
        assert row["labels"] == "|".join(f for f, s in record.condition.findings.items() if s.state == "present")
        assert Condition(findings=json.loads(row["findings"])).findings == record.condition.findings
    # The folder itself says which form it is.
    assert len(offline.load_dataset(str(exported[form]), split="train")) == 3


def test_marks_stay_in_each_file(synthetic: Dataset, exported: dict[str, Path]) -> None:
    for form, pattern in (("imagefolder", "*/*.png"), ("nih-csv", "images/*.png")):
        files = list(exported[form].glob(pattern))
        assert len(files) == 5
        for file in files:
            assert read_provenance(file)["model"] == MODEL and b"trainedAlgorithmicMedia" in file.read_bytes()
    table = pd.concat(map(pd.read_parquet, sorted(exported["parquet"].glob("data/*.parquet"))))
    assert len(table) == 5 and all(read_provenance(image["bytes"])["model"] == MODEL for image in table["image"])
    assert set(table["origin"]) == {"synthetic"}


def test_webdataset_reads_with_its_safe_decoders(
    synthetic: Dataset, exported: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    wds = pytest.importorskip("webdataset")
    monkeypatch.setenv("WDS_SECURE", "1")
    shards = sorted(exported["webdataset"].glob("*.tar"))
    assert [path.name for path in shards] == ["test-000000.tar", "train-000000.tar", "validation-000000.tar"]

    def png(data: bytes) -> dict:
        return read_provenance(data)

    handlers = [wds.handle_extension("png", png), wds.handle_extension("json", json.loads)]
    handlers.append(wds.handle_extension("txt", bytes.decode))
    decoder = wds.autodecode.Decoder(handlers, pre=[], post=[])  # the default ones would unpickle
    # Plain paths are files; what a URL scheme such as pipe: would run isn't there.
    samples = list(wds.WebDataset(list(map(str, shards)), shardshuffle=False, empty_check=False).map(decoder))
    by_id = {sample["__key__"]: sample for sample in samples}
    for record, split in zip(synthetic.records, HUB, strict=True):
        sample = by_id[record.id]
        assert {name for name in sample if not name.startswith("__")} == {"png", "json", "txt"}
        assert sample["png"]["model"] == MODEL and split in sample["__url__"]
        assert sample["json"]["patient"] == record.patient and sample["json"]["origin"] == "synthetic"
    assert by_id["i1"]["txt"] == "=1+1" and by_id["i2"]["txt"] == "52 year old male. AP view. Edema. Pacemaker."


def test_nih_table_as_published(synthetic: Dataset, exported: dict[str, Path]) -> None:
    folder = exported["nih-csv"]
    header = (folder / TABLE).read_text().splitlines()[0]
    assert header == (
        "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,View Position,"
        "OriginalImage[Width,Height],OriginalImagePixelSpacing[x,y]"
    )
    table = pd.read_csv(folder / TABLE)
    assert tuple(table.columns) == COLUMNS
    assert list(table["Finding Labels"]) == ["Edema|Effusion", "No Finding", "Edema", "Edema|Effusion", "No Finding"]
    assert list(table["Patient ID"]) == [1, 2, 3, 4, 1] and list(table["Follow-up #"]) == [0, 0, 0, 0, 1]
    assert table["Patient Age"].isna()[0] and list(table["Patient Age"][1:]) == [51, 52, 53, 54]
    assert list(table["Image Index"])[:2] == ["'-i0.png", "i1.png"]
    for name, record in zip(table["Image Index"], synthetic.records, strict=True):
        assert np.array_equal(np.asarray(Image.open(folder / "images" / name)), synthetic.read(record))
    assert (folder / "test_list.txt").read_text().split() == ["i3.png"]
    rest = pd.read_parquet(folder / "metadata.parquet")
    assert list(rest["file_name"])[1] == "images/i1.png" and rest["labels"][2] == "Edema|Pacemaker"


def test_a_real_nih_dataset_comes_back_as_it_was(tmp_path: Path) -> None:
    with DatasetWriter(tmp_path / "data", origin="real") as writer:
        for index in range(1, 5):
            condition = Condition(
                age=29 + index if index > 1 else None, sex="female", view="PA", findings=["Pneumothorax", "Nodule"]
            )
            writer.add(
                drawn_chest(64, seed=index), id=f"0000000{index}_000", patient=f"nih-{index}",
                study=f"0000000{index}_000", split="train", source="nih", licence="x", condition=condition,
                native_size=(2500, 2048),
            )  # fmt: skip
    run(ExportConfig(dataset=tmp_path / "data", to="nih-csv", output=tmp_path / "out"))
    back = prepare(PrepareConfig(source="nih", root=tmp_path / "out", output=tmp_path / "back", workers=1))
    for before, after in zip(writer.dataset.records, back.records, strict=True):
        assert (after.id, after.patient, after.condition) == (before.id, before.patient, before.condition)
        assert np.array_equal(back.read(after), writer.dataset.read(before))


def test_what_nih_has_no_word_for_is_refused(tmp_path: Path) -> None:
    for findings in (["Fracture"], []):
        data = drawn(tmp_path / f"data{len(findings)}", condition=Condition(findings=findings))
        with pytest.raises(DatasetError, match="no NIH label"):
            run(ExportConfig(dataset=data.path, to="nih-csv", output=tmp_path / "out"))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("form", REAL_FORMS)
def test_real_images_stay_real(real: Dataset, tmp_path: Path, form: str) -> None:
    assert run(ExportConfig(dataset=real.path, to=form, output=tmp_path / "out")) == 5
    assert b"trainedAlgorithmicMedia" not in b"".join(contents(tmp_path / "out").values())
    card = (tmp_path / "out" / "README.md").read_text()
    assert "5 chest radiographs (real)" in card and "synthetic" not in card and "audit" not in card.lower()


@pytest.mark.parametrize("form", FORMS)
def test_card_metadata_and_sums(exported: dict[str, Path], form: str, caplog: pytest.LogCaptureFixture) -> None:
    mlc = pytest.importorskip("mlcroissant")
    folder = exported[form]
    card = (folder / "README.md").read_text()
    assert "5 chest radiographs (synthetic)" in card and "| drawn | CC0 |" in card
    assert r"| Edema \| AP | 6 | 5 | 83.3% | 1 | 9 | 55.6% |" in card
    assert "| any | 6 | 6 | 100.0% | 0 | unknown | unknown |" in card
    assert "audit of model abababababab: passed (passed True, excess 0.001)" in card and "Unaudited" not in card
    assert not [line for line in card.splitlines() if line.rstrip().endswith(":") and line.startswith("-")]
    assert "|  |" not in card and "None" not in card
    read = mlc.Dataset(str(folder / "croissant.json"))
    issues = read.metadata.ctx.issues
    # There's no date of publication before it's published.
    assert not issues.errors and all("datePublished" in warning for warning in issues.warnings)
    assert not [line for line in caplog.messages if "not standard" in line]
    records = list(read.records("records"))
    key = "records/Image_Index" if form == "nih-csv" else "records/id"
    assert len({record[key] for record in records}) == 5
    assert verify(folder) == []
    (folder / "more.png").write_bytes(b"")
    assert verify(folder) == ["more.png: not listed in SHA256SUMS"]
    (folder / "more.png").unlink()


def test_a_dataset_has_them_too(synthetic: Dataset, real: Dataset) -> None:
    mlc = pytest.importorskip("mlcroissant")
    for dataset in (synthetic, real):
        read = mlc.Dataset(str(dataset.path / "croissant.json"))
        assert not read.metadata.ctx.issues.errors and len(list(read.records("records"))) == 5
    assert r"| Edema \| AP | 6 | 5 | 83.3% | 1 | 9 | 55.6% |" in (synthetic.path / "README.md").read_text()


@pytest.mark.parametrize("audit", [None, {}, {MODEL: None}, {MODEL: {"passed": False}}, {"cd" * 32: {"passed": True}}])
def test_no_passing_audit_no_export_unless_it_is_wanted(tmp_path: Path, audit: dict | None) -> None:
    data = drawn(tmp_path / "data", extra={"audit": audit})
    config = ExportConfig(dataset=data.path, to="parquet", output=tmp_path / "out")
    with pytest.raises(DatasetError, match="abababababab has no passing privacy audit.*--unaudited"):
        run(config)
    assert not (tmp_path / "out").exists()
    run(config.model_copy(update={"unaudited": True}))
    card = (tmp_path / "out" / "README.md").read_text()
    assert "**Unaudited**" in card and "acceptance by the screen: none recorded" in card


@pytest.mark.parametrize("form", FORMS)
def test_cut_off_or_damaged_it_ends_the_same(
    synthetic: Dataset, exported: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: str
) -> None:
    config = ExportConfig(dataset=synthetic.path, to=form, output=tmp_path / "out")
    read_bytes, reads = Dataset.read_bytes, []

    def cut_off(self: Dataset, record: object) -> bytes:
        reads.append(record)
        if len(reads) == 4:
            raise KeyboardInterrupt
        return read_bytes(self, record)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Dataset, "read_bytes", cut_off)
        run(config)
    (tmp_path / "out" / ".tmp-0123abcd-x.png").write_bytes(b"half")  # as a killed process leaves it
    run(config)
    assert contents(tmp_path / "out") == contents(exported[form]) and verify(tmp_path / "out") == []
    files = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*") if path.is_file()}
    run(config)
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*") if path.is_file()} == files
    data_files = sorted(path for path in files if path.suffix in (".png", ".tar", ".dcm", ".parquet"))
    data_files[0].write_bytes(data_files[0].read_bytes()[:-9])
    data_files[-1].unlink()
    run(config)
    assert contents(tmp_path / "out") == contents(exported[form]) and verify(tmp_path / "out") == []


def test_many_images_go_into_several_files(synthetic: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(job, "FILE_ROWS", 2)
    monkeypatch.setattr("synthcxr.synthesis.export.parquet.FILE_ROWS", 2)
    for form in ("parquet", "webdataset"):
        run(ExportConfig(dataset=synthetic.path, to=form, output=tmp_path / form))
    assert [path.name for path in sorted((tmp_path / "parquet" / "data").iterdir())] == [
        "test-00000-of-00001.parquet", "train-00000-of-00002.parquet", "train-00001-of-00002.parquet",
        "validation-00000-of-00001.parquet",
    ]  # fmt: skip
    assert len(list((tmp_path / "webdataset").glob("train-*.tar"))) == 2
    assert webdataset.webdataset is FORMATS["webdataset"].write


def test_what_contradicts_itself_is_not_exported(real: Dataset, synthetic: Dataset, tmp_path: Path) -> None:
    shard = synthetic.path / "shards" / "00000.tar"
    whole = shard.read_bytes()
    damaged = bytearray(whole)
    damaged[synthetic.records[1].offset + 70] ^= 1
    try:
        shard.write_bytes(damaged)
        with pytest.raises(DatasetError, match="image i1: sha256 differs"):
            run(ExportConfig(dataset=synthetic.path, to="imagefolder", output=tmp_path / "out"))
    finally:
        shard.write_bytes(whole)


@pytest.mark.parametrize("start", ["=", "+", "-", "@", "\t", "\r", "\n", "＝"])
def test_no_cell_starts_a_formula(tmp_path: Path, start: str) -> None:
    evil = f'{start}cmd|"/c calc"!A1'
    write_csv(tmp_path / "a.csv", ["=id", "value"], [[evil, -1], ["a-b=c", None]])
    with open(tmp_path / "a.csv", newline="") as file:
        rows = list(csv.reader(file))
    assert rows == [["'=id", "value"], [f"'{evil}", "-1"], ["a-b=c", ""]]
    assert safe_cell(safe_cell(evil)) == safe_cell(evil)
