"""Export of a synthetic DATASET, and `generate --format dicom`: every image, its labels, resumed like any run."""

import json
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pydicom
import pytest
from conftest import drawn_chest

from synthcxr import cli
from synthcxr.conditions import Condition
from synthcxr.data.dataset import Dataset
from synthcxr.data.writer import DatasetWriter
from synthcxr.dicom.write import DicomSettings
from synthcxr.errors import DatasetError, ImageError, RunError
from synthcxr.generate_run import GenerateConfig
from synthcxr.generate_run import run as generate
from synthcxr.images import read_image
from synthcxr.model.sampler import SamplerSettings
from synthcxr.synthesis.export import dicom
from synthcxr.synthesis.export.run import ExportConfig, run

SPLITS = ("train", "train", "validate", "test")
HEART = "72 year old female. PA view. Cardiomegaly."


def drawn(path: Path, origin: str = "synthetic", seed: int = 0, **changed: object) -> Dataset:
    """Four drawn 32 px images, the last of 16 bits."""
    with DatasetWriter(path, origin=origin, shard_rows=3) as writer:
        for index, split in enumerate(SPLITS):
            pixels = drawn_chest(32, seed=index + seed)
            row = {
                "condition": Condition(age=50 + index, sex="male", view="AP", findings=["Edema"]),
                "prompt": None if index == 2 else f"Edema, number {index}.",
                "seed": index, "model": "ab" * 32, "sampler": '{"steps": 20}', **changed,
            }  # fmt: skip
            writer.add(
                pixels.astype(np.uint16) * 257 + 1 if index == 3 else pixels,
                id=f"drawn-{index}", patient=f"p{index}", study=f"s{index}", split=split,
                source="drawn", licence="CC0", **row,
            )  # fmt: skip
    return writer.dataset


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return drawn(tmp_path_factory.mktemp("synthetic") / "dataset")


def config_of(dataset: Dataset, output: Path, **changed: object) -> ExportConfig:
    return ExportConfig(dataset=dataset.path, to="dicom", output=output, **{"unaudited": True, **changed})


def contents(folder: Path) -> dict[str, bytes]:
    files = [*folder.rglob("*.dcm"), folder / "metadata.jsonl"]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def rows_of(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "metadata.jsonl").read_text(encoding="utf-8").splitlines()]


def altered(dataset: Dataset, path: Path, column: str, values: list) -> Dataset:
    """A copy of the manifest with another column, over the same shards."""
    path.mkdir()
    (path / "shards").symlink_to(dataset.path / "shards")
    (path / "dataset.json").write_bytes((dataset.path / "dataset.json").read_bytes())
    place = dataset.table.column_names.index(column)
    field = dataset.table.schema.field(column)
    pq.write_table(dataset.table.set_column(place, field, pa.array(values, field.type)), path / "manifest.parquet")
    return Dataset.open(path)


def test_every_image_becomes_a_file_with_its_labels(dataset: Dataset, tmp_path: Path) -> None:
    assert run(config_of(dataset, tmp_path / "out", dicom={"bits": 12})) == 4
    rows = rows_of(tmp_path / "out")
    assert [row["file_name"] for row in rows] == [f"{split}/drawn-{i}.dcm" for i, split in enumerate(SPLITS)]
    for record, row in zip(dataset.records, rows, strict=True):
        read = pydicom.dcmread(tmp_path / "out" / row["file_name"])
        pixels = dataset.read(record)
        largest = np.iinfo(pixels.dtype).max
        np.testing.assert_array_equal(read.pixel_array, np.rint(pixels * (4095 / largest)))
        assert read.SyntheticData == "YES" and read.SOPInstanceUID == row["sop_instance_uid"]
        assert read.PatientAge == f"0{record.condition.age}Y" and read.ViewPosition == "AP"
        assert f"Seed: {record.seed}" in read.ImageComments and "ab" * 32 in read.ImageComments
        said = {name: row[name] for name in ("id", "patient", "study", "split", "seed", "age", "sex", "view")}
        assert said == {
            "id": record.id, "patient": record.patient, "study": record.study, "split": record.split,
            "seed": record.seed, "age": record.condition.age, "sex": "male", "view": "AP",
        }  # fmt: skip
        assert Condition(findings=row["findings"]).findings == record.condition.findings
    assert len({row["sop_instance_uid"] for row in rows}) == 4
    # A row without a prompt says its condition in the canonical words.
    comments = pydicom.dcmread(tmp_path / "out" / rows[2]["file_name"]).ImageComments
    assert "Prompt: 52 year old male. AP view. Edema." in comments


def test_cut_off_it_goes_on_and_ends_the_same(
    dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def cut_off(path: Path, *rest: object) -> str:
        if path.name == "drawn-2.dcm":
            raise KeyboardInterrupt
        return write_dicom(path, *rest)

    write_dicom = dicom.write_dicom
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(dicom, "write_dicom", cut_off)
        run(config_of(dataset, tmp_path / "cut"))
    kept = {path: path.stat().st_mtime_ns for path in (tmp_path / "cut").rglob("*.dcm")}
    assert len(kept) == 2 and not (tmp_path / "cut/metadata.jsonl").exists()
    (tmp_path / "cut/train/drawn-1.dcm").write_bytes(b"damaged")
    for name in ("cut", "whole"):
        run(config_of(dataset, tmp_path / name))
    assert contents(tmp_path / "cut") == contents(tmp_path / "whole")
    assert [path.name for path, time in kept.items() if path.stat().st_mtime_ns == time] == ["drawn-0.dcm"]
    before = contents(tmp_path / "cut")
    (tmp_path / "cut/test/drawn-3.dcm").unlink()
    run(config_of(dataset, tmp_path / "cut"))
    assert contents(tmp_path / "cut") == before


def test_another_config_or_dataset_is_refused(dataset: Dataset, tmp_path: Path) -> None:
    output = tmp_path / "out"
    run(config_of(dataset, output))
    before = contents(output)
    with pytest.raises(RunError, match="bits 8, now 12.*--fresh"):
        run(config_of(dataset, output, dicom={"bits": 12}))
    other = drawn(tmp_path / "other", seed=9)
    with pytest.raises(RunError, match="another config"):
        run(config_of(other, output))
    assert contents(output) == before
    changed = altered(dataset, tmp_path / "changed", "age", [1, 2, 3, 4])
    with pytest.raises(DatasetError, match="dataset_hash"):
        run(config_of(changed, tmp_path / "new", dataset_hash=dataset.hash))
    run(config_of(dataset, output, dicom={"bits": 12}), fresh=True)
    assert contents(output) != before and len(contents(output)) == 5


def test_files_of_others_are_left_alone(dataset: Dataset, tmp_path: Path) -> None:
    (tmp_path / "precious.dcm").write_bytes(b"precious")
    with pytest.raises(RunError, match="another --output"):
        run(config_of(dataset, tmp_path), fresh=True)
    assert [path.name for path in tmp_path.iterdir()] == ["precious.dcm"]


def test_real_images_are_never_marked_as_synthetic(dataset: Dataset, tmp_path: Path) -> None:
    real = drawn(tmp_path / "real", "real")
    disguised = altered(real, tmp_path / "disguised", "origin", ["synthetic"] * 4)
    info = json.loads((disguised.path / "dataset.json").read_text())
    (disguised.path / "dataset.json").write_text(json.dumps({**info, "origin": "synthetic"}))
    mixed = altered(dataset, tmp_path / "mixed", "origin", ["synthetic", "synthetic", "real", "synthetic"])
    for source, says in ((real, "drawn-0 is real"), (mixed, "drawn-2 is real"), (disguised, "isn't marked")):
        with pytest.raises(DatasetError, match=says) as caught:
            run(config_of(source, tmp_path / "out"))
        assert "\n" not in str(caught.value)
        assert not list((tmp_path / "out").rglob("*.dcm"))


@pytest.mark.parametrize(
    ("column", "values", "says"),
    [
        ("id", ["../../a", "b", "c", "d"], "image '../../a': id"),
        ("age", [500, 1, 1, 1], "image 'drawn-0': age = 500"),
        ("race", ["no such race at all", None, None, None], "image 'drawn-0': race"),
        ("seed", [None, 1, 1, 1], "no seed or no model"),
        ("model", [None, "a", "a", "a"], "no seed or no model"),
    ],
)
def test_a_manifest_that_breaks_a_rule_is_refused(
    dataset: Dataset, tmp_path: Path, column: str, values: list, says: str
) -> None:
    source = altered(dataset, tmp_path / "source", column, values)
    with pytest.raises(DatasetError, match=says):
        run(config_of(source, tmp_path / "out"))
    assert not list(tmp_path.rglob("*.dcm"))


def test_mistakes_are_said_before_anything_is_written(
    dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ValueError, match="did you mean 'dicom'"):
        ExportConfig(dataset=dataset.path, to="dicm", output=tmp_path / "out")
    monkeypatch.setattr("synthcxr.dicom.write.get_encoder", lambda syntax: type("none", (), {"is_available": False}))
    with pytest.raises(ImageError, match="pyjpegls"):
        run(config_of(dataset, tmp_path / "out", dicom={"compression": "jpeg-ls"}))
    with pytest.raises(ImageError, match="pyjpegls"):
        generate(
            GenerateConfig(prompts=(HEART,), output=tmp_path / "out", format="dicom", dicom={"compression": "jpeg-ls"})
        )
    assert not list(tmp_path.iterdir())


def ended(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], *words: object) -> tuple[int, str, str]:
    monkeypatch.setattr(sys, "argv", ["synthcxr", *map(str, words)])
    monkeypatch.setattr("signal.signal", lambda number, handler: None)  # the tests' own process keeps its handlers
    capfd.readouterr()
    with pytest.raises(SystemExit) as end:
        cli.main()
    out, err = capfd.readouterr()
    return end.value.code or 0, out, err


def test_the_command(
    dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    words = ("export", dataset.path, "--to", "dicom", "-o", "out", "--unaudited", "--kind", "SC", "--bits", "12")
    code, out, _ = ended(monkeypatch, capfd, *words, "--dry-run")
    assert code == 0 and "kind: SC" in out and not list(tmp_path.iterdir())
    assert ended(monkeypatch, capfd, *words, "--json")[:2] == (0, '{"images": 4}\n')
    assert ended(monkeypatch, capfd, *words)[:2] == (0, "out: 4 images\n")
    read = pydicom.dcmread("out/train/drawn-0.dcm")
    assert (read.SOPClassUID.name, read.BitsStored) == ("Secondary Capture Image Storage", 12)
    # What the run keeps of its configuration is itself an input.
    assert ended(monkeypatch, capfd, "export", "out/config.yaml", "output=again")[:2] == (0, "again: 4 images\n")
    assert contents(tmp_path / "again") == contents(tmp_path / "out")
    for mistake, says in (
        (("export", "nowhere", "--to", "dicom", "-o", "new"), "nowhere isn't a dataset"),
        (("export", dataset.path, "--to", "dicm", "-o", "new"), "did you mean 'dicom'?"),
        (("export", dataset.path, "-o", "new"), "to is missing"),
        (
            ("export", dataset.path, "--to", "dicom", "-o", "new", "--bits", "10"),
            "dicom.bits = 10 must be 8 or 12",
        ),
        (("export", dataset.path, "--to", "dicom", "-o", "new"), "no passing privacy audit"),
        (("export", "a", "b", "--to", "dicom", "-o", "new"), "one DATASET at most"),
        (("generate", HEART, "-o", "new", "--format", "dcm"), "format = 'dcm' must be 'png' or 'dicom'"),
    ):
        code, out, err = ended(monkeypatch, capfd, *mistake)
        assert (code, out) == (2, "") and says in err.splitlines()[-1], err
    assert not (tmp_path / "new").exists()


def test_generate_writes_dicom(tiny_model: Path, tmp_path: Path) -> None:
    def config(name: str, **changed: object) -> GenerateConfig:
        asked = {
            "prompts": (HEART, "40 year old male. Lateral view. Tree."),
            "model": str(tiny_model),
            "format": "dicom",
            **changed,
        }
        return GenerateConfig(output=tmp_path / name, settings=SamplerSettings(steps=2), **asked)

    # The model knows no trees, and no laterals: what the header says of a picture is what the model was told.
    paths = generate(config("a"))
    rows = rows_of(tmp_path / "a")
    assert [path.name for path in paths] == ["00000.dcm", "00001.dcm"] == [row["file_name"] for row in rows]
    png = generate(config("png", format="png"))
    for path, row, same in zip(paths, rows, png, strict=True):
        read = pydicom.dcmread(path)
        np.testing.assert_array_equal(read.pixel_array, read_image(same))
        assert read.SyntheticData == "YES" and read.SOPInstanceUID == row["sop_instance_uid"]
        assert row["prompt"] in read.ImageComments and row["model"] in read.ImageComments
    read = pydicom.dcmread(paths[1])
    assert "Told to the model: 40 year old male." in read.ImageComments
    assert read.PatientAge == "040Y" and "ViewPosition" not in read and rows[1]["view"] == "LATERAL"
    before = {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in paths}
    assert generate(config("a")) == paths
    assert {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in paths} == before
    paths[0].unlink()
    generate(config("a"))
    assert {path: path.read_bytes() for path in paths} == {path: data for path, (_, data) in before.items()}
    with pytest.raises(RunError, match="another config"):
        generate(config("a", dicom=DicomSettings(bits=12)))
