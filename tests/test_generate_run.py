"""`generate`: marked pictures in a run folder, which a run that was cut off or begun again leaves as they were."""

import json
from pathlib import Path

import pytest

from synthcxr import generate_run
from synthcxr.errors import ConfigError, ModelError, RunError
from synthcxr.generate_run import GenerateConfig, run
from synthcxr.images import read_image, read_provenance
from synthcxr.model.folder import load_model
from synthcxr.model.sampler import USUAL, SamplerSettings

HEART = "72 year old female. PA view. Cardiomegaly."
QUICK = SamplerSettings(sampler="sde-dpm++", steps=3, guidance=2.0)


def test_run_writes_marked_pictures_and_an_image_folder(tiny_model: Path, tmp_path: Path) -> None:
    config = GenerateConfig(
        prompts=(HEART,), conditions=({"age": 50, "findings": ["effusion"]},), count=2, seed=7,
        output=tmp_path / "out", model=str(tiny_model), settings=QUICK,
    )  # fmt: skip
    paths = run(config)
    lines = (config.output / "metadata.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    assert [config.output / row["file_name"] for row in rows] == paths  # ImageFolder's convention
    assert [row["seed"] for row in rows] == [7, 8, 7, 8]
    assert [row["prompt"] for row in rows[1:3]] == [HEART, "50 year old. Pleural effusion."]
    assert rows[0]["age"] == 72 and rows[0]["sex"] == "female" and "Cardiomegaly" in rows[0]["findings"]
    assert rows[0]["model"] == load_model(tiny_model).hash
    assert rows[0]["settings"] == QUICK.over(USUAL).model_dump()
    for path, row in zip(paths, rows, strict=True):
        assert read_image(path).shape == (64, 64)
        assert read_provenance(path) == row


@pytest.mark.parametrize("format", ["png", "dicom"])
def test_what_names_a_person_or_a_day_reaches_no_file_and_no_log(
    tiny_model: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, format: str
) -> None:
    typed = "72 year old female. Cardiomegaly. Seen by Jane Qxzv on 03/04/2011, MRN 7654321."
    config = GenerateConfig(
        prompts=(typed, HEART), conditions=({"age": 50, "text": "Mr. Qxzv, 03/04/2011"},), output=tmp_path / "out",
        model=str(tiny_model), settings=QUICK, format=format,
    )  # fmt: skip
    run(config)
    held = b"".join(path.read_bytes() for path in config.output.rglob("*") if path.is_file()).decode("latin-1")
    held += caplog.text + "".join(map(str, config.output.rglob("*")))
    assert not [word for word in ("Qxzv", "03/04", "7654321") if word in held]
    assert caplog.text.count("taken out of a prompt") == 2 and "Cardiomegaly" in held  # and none for the other prompt
    assert config.prompts[1] == HEART and run(config)  # what is kept is read as it is


def test_metadata_opens_with_datasets(tiny_model: Path, tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets", reason="datasets isn't installed")
    config = GenerateConfig(prompts=(HEART,), output=tmp_path / "out", model=str(tiny_model), settings=QUICK)
    run(config)
    loaded = datasets.load_dataset("imagefolder", data_dir=str(config.output), cache_dir=str(tmp_path / "cache"))
    assert loaded["train"][0]["prompt"] == HEART


def test_the_same_command_again_changes_nothing(tiny_model: Path, tmp_path: Path) -> None:
    config = GenerateConfig(prompts=(HEART,), count=2, output=tmp_path, model=str(tiny_model), settings=QUICK)
    paths = run(config)
    before = {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in [*paths, tmp_path / "metadata.jsonl"]}
    assert run(config) == paths
    assert {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in before} == before
    paths[1].unlink()
    run(config)
    assert {path: path.read_bytes() for path in before} == {path: data for path, (_, data) in before.items()}


def test_a_run_that_was_cut_off_ends_the_same(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def config(name: str) -> GenerateConfig:
        output = tmp_path / name
        return GenerateConfig(
            prompts=(HEART,), count=3, output=output, model=str(tiny_model), settings=QUICK, batch_size=1
        )

    def cut_off(path: Path, *rest: object) -> None:
        if path.name == "00001.png":
            raise KeyboardInterrupt
        write_png(path, *rest)

    write_png = generate_run.write_png
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(generate_run, "write_png", cut_off)
        run(config("cut"))
    assert not (tmp_path / "cut" / "metadata.jsonl").exists()  # it comes last: what it lists is there
    whole, resumed = run(config("whole")), run(config("cut"))
    assert [path.read_bytes() for path in whole] == [path.read_bytes() for path in resumed]
    assert (tmp_path / "whole/metadata.jsonl").read_bytes() == (tmp_path / "cut/metadata.jsonl").read_bytes()


def test_another_config_is_refused_unless_fresh(tiny_model: Path, tmp_path: Path) -> None:
    config = GenerateConfig(prompts=(HEART,), count=2, output=tmp_path, model=str(tiny_model), settings=QUICK)
    before = [path.read_bytes() for path in run(config)]
    other = config.model_copy(update={"seed": 5, "count": 1})
    with pytest.raises(RunError, match="count 2, now 1.*--fresh"):
        run(other)
    assert [path.read_bytes() for path in sorted(tmp_path.glob("*.png"))] == before
    run(other, fresh=True)
    assert len(list(tmp_path.glob("*.png"))) == len((tmp_path / "metadata.jsonl").read_text().splitlines()) == 1


@pytest.mark.parametrize("name", ["00000.png", "metadata.jsonl"])
def test_files_of_others_are_never_overwritten(tiny_model: Path, tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"precious")
    with pytest.raises(RunError, match="another --output"):
        run(GenerateConfig(prompts=(HEART,), output=tmp_path, model=str(tiny_model), settings=QUICK), fresh=True)
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert (tmp_path / name).read_bytes() == b"precious"


def test_impossible_requests_are_refused(tiny_model: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="nothing to draw"):
        GenerateConfig(output=tmp_path)
    with pytest.raises(ModelError, match="no model_index.json"):
        run(GenerateConfig(prompts=(HEART,), output=tmp_path / "out", model=str(tmp_path)))
    assert not (tmp_path / "out").exists()
