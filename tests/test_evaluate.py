"""The whole of `synthcxr evaluate` on drawn chests: what it finds, what it leaves out, and that it's done once."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import drawn_chest
from PIL import Image, ImageFilter
from typer.testing import CliRunner

from synthcxr.cli import app
from synthcxr.conditions import DEFAULT_TEMPLATE, Condition, canonical_words
from synthcxr.config import dump_config
from synthcxr.data.dataset import Dataset
from synthcxr.data.writer import DatasetWriter
from synthcxr.errors import DatasetError, ModelError, RunError
from synthcxr.evaluation import features
from synthcxr.evaluation.config import EvaluateConfig
from synthcxr.evaluation.features import features_of, judge, open_extractor
from synthcxr.evaluation.result import Result, find
from synthcxr.evaluation.run import REPORT, run
from synthcxr.model.classifier import ClassifierShape, build_classifier, load_classifier
from synthcxr.model.contrastive import ContrastiveShape, build_contrastive, weights_hash
from synthcxr.model.embedded import build_tokenizer

pytest.importorskip("scipy")
pytest.importorskip("sklearn")
pytest.importorskip("torchmetrics")

SIZE = 48


def drawn(path: Path, origin: str, first: int, blurred: bool = False, count: int = 80) -> Dataset:
    """Drawn chests, each synthetic prompt twice or more, and pairs that differ in the heart alone."""
    with DatasetWriter(path, origin=origin) as writer:
        for index in range(count):
            seed, large = first + index // 2, index % 2 == 1
            pixels = drawn_chest(SIZE, seed, large)
            if blurred:
                pixels = np.asarray(Image.fromarray(pixels).filter(ImageFilter.GaussianBlur(1.5)))
            sex, view = ("female", "male")[index // 2 % 2], ("PA", "AP")[index // 4 % 2]
            condition = Condition(findings=["Cardiomegaly" if large else "No Finding"], age=50, sex=sex, view=view)
            made = {"prompt": f"{sex} {view} {large}", "seed": seed, "model": "m" * 8} if origin == "synthetic" else {}
            writer.add(
                pixels, id=f"{origin}-{index}", patient=f"{origin}-{seed}", study=f"{index}", split="test",
                source="drawn", licence="CC0", condition=condition, **made,
            )  # fmt: skip
    return writer.dataset


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("evaluate")
    drawn(folder / "real", "real", 0, count=160)
    drawn(folder / "alike", "synthetic", 5000)
    drawn(folder / "blurred", "synthetic", 6000, blurred=True)
    torch.manual_seed(0)
    shape = ClassifierShape(size=32, channels=(8, 8, 16, 16), depths=(1, 1, 1, 1))
    build_classifier(shape).save_pretrained(folder / "model" / "classifier")
    tokenizer = build_tokenizer(canonical_words(), 24)
    build_contrastive(
        ContrastiveShape(width=32, tokens=24), tokenizer, 16, weights_hash(folder / "model" / "classifier"),
        DEFAULT_TEMPLATE, canonical_words(),
    ).save_pretrained(folder / "model" / "contrastive")  # fmt: skip
    tokenizer.save_pretrained(folder / "model" / "contrastive")
    return folder


@pytest.fixture(scope="module")
def config(folder) -> EvaluateConfig:
    return EvaluateConfig(
        real=folder / "real", synthetic=(folder / "alike", folder / "blurred"),
        train=folder / "real", train_split="test",
        output=folder / "out", model=str(folder / "model"), size=SIZE, least=15, replicates=10, cache=folder / "cache",
    )  # fmt: skip


@pytest.fixture(scope="module")
def result(config) -> Result:
    return run(config)


def test_each_number_has_interval_count_and_reference(result):
    for judged in result.judged:
        names = {line.name for line in judged.lines if line.group == "all"}
        assert {"kernel", "gaussian_mmd", "precision", "coverage", "sharpness", "spectrum", "grays"} <= names
        assert {"MS-SSIM within a prompt", "AUROC, Cardiomegaly", "accuracy, sex", "accuracy, view"} <= names
        assert {"image-text similarity", "image-text similarity, prompts shuffled"} <= names
        assert {"control of Cardiomegaly", "gap, AUROC", "gap, underdiagnosis"} <= names
        for line in judged.lines:
            assert line.measured.low <= line.measured.value <= line.measured.high and line.measured.n > 0
            assert (line.reference is None) == (line.section == "control") and (line.against is None) == (
                line.section == "control"
            )
        groups = {line.group for line in judged.lines if line.name == "kernel"}
        assert {"all", "finding: Cardiomegaly", "sex: female", "view: AP"} <= groups


def test_a_blurred_set_is_told_from_one_that_is_drawn_alike(result):
    alike, blurred = (judged.lines for judged in result.judged)
    for name in ("sharpness", "spectrum"):
        good, bad = find(alike, name), find(blurred, name)
        assert abs(bad.measured.value) > 5 * abs(good.measured.value)
        assert bad.measured.high < 0 or bad.measured.low > good.reference.high
        assert abs(good.measured.value) < 0.5 + 3 * abs(good.reference.value)
    assert find(blurred, "gaussian_mmd").measured.value > 3 * find(alike, "gaussian_mmd").measured.value


def test_the_report_needs_nothing_else_and_compares(result, config):
    text = (config.output / REPORT).read_text()
    loaded = re.findall(r'(?:src|href)="([^"]{12})', text)
    assert loaded and all(address.startswith("data:image/") for address in loaded)
    assert (
        not re.search(r"<link|<script|@import|url\(", text)
        and "//" not in text.replace('xmlns="http://www.w3.org', "")[:2000]
    )
    assert text.count("data:image/jpeg;base64,") >= 8 and "<svg" in text and len(text) < 5e6
    assert "<th>alike</th><th>blurred</th>" in text and "class=best" in text
    assert str(config.output.parent) not in text  # a report is given away


def test_the_same_command_again_reads_what_is_there(result, config, monkeypatch):
    def never(*_):
        raise AssertionError("measured twice")

    monkeypatch.setattr("synthcxr.evaluation.run.Reader", never)
    assert run(config) == result
    saved = json.loads((config.output / "result.json").read_text())
    assert Result.model_validate(saved) == result and saved["environment"]["packages"]["scipy"]


def test_the_command_says_it_in_lines_and_in_json(result, config, tmp_path):
    (tmp_path / "config.yaml").write_text(dump_config(config))
    said = CliRunner().invoke(app, ["evaluate", str(tmp_path / "config.yaml")])
    assert said.exit_code == 0 and "alike: kernel " in said.stdout and "real against real" in said.stdout
    assert said.stdout.splitlines()[-1] == f"report: {config.output / REPORT}"
    said = CliRunner().invoke(app, ["evaluate", str(tmp_path / "config.yaml"), "--json"])
    assert Result.model_validate_json(said.stdout) == result


def test_a_dataset_that_changed_is_refused(config, result, folder, tmp_path):
    other = config.model_copy(
        update={"output": tmp_path / "out", "synthetic": (tmp_path / "fake",), "extractor": "pixels"}
    )
    drawn(tmp_path / "fake", "synthetic", 7000, count=24)
    left_out = run(other).judged[0].left_out
    assert any("frechet, all: 24 rows don't tell a covariance" in reason for reason in left_out)
    assert any("finding: Cardiomegaly" in reason and "fewer than 15" in reason for reason in left_out)
    assert any(reason.startswith("diversity") for reason in left_out)
    assert "Left out" in (other.output / REPORT).read_text()
    (tmp_path / "fake").rename(tmp_path / "gone")
    drawn(tmp_path / "fake", "synthetic", 7001, count=24)
    with pytest.raises(RunError, match="changed; give another output or --fresh"):
        run(other)


def test_what_is_missing_is_said(config, tmp_path):
    with pytest.raises(DatasetError, match="holds real images; give a synthetic dataset"):
        run(config.model_copy(update={"synthetic": (config.real,), "output": tmp_path / "a"}))
    with pytest.raises(DatasetError, match="holds synthetic images; give a real dataset"):
        run(config.model_copy(update={"real": config.synthetic[0], "output": tmp_path / "b"}))
    with pytest.raises(DatasetError, match="no images in split 'validate'"):
        run(config.model_copy(update={"split": "validate", "output": tmp_path / "c"}))
    with pytest.raises(ModelError, match="holds no classifier.*extractor=pixels"):
        run(config.model_copy(update={"model": str(tmp_path), "output": tmp_path / "d"}))


def test_features_are_kept_by_content_and_extractor(folder, tmp_path, monkeypatch):
    dataset = Dataset.open(folder / "alike")
    extractor, records = open_extractor("pixels"), dataset.records[:6]
    first = features_of(extractor, dataset, records, SIZE, tmp_path)
    assert len(list(tmp_path.iterdir())) == 1 and first.dtype == np.float32 and len(first) == 6

    def broken(images):
        raise RuntimeError("cut off")

    never = features.Extractor(extractor.name, broken)
    np.testing.assert_array_equal(features_of(never, dataset, records, SIZE, tmp_path), first)
    for other in (features.Extractor("another", broken), never):
        with pytest.raises(RuntimeError):
            features_of(other, dataset, records[: 6 if other is not never else 5], SIZE, tmp_path)
    assert len(list(tmp_path.iterdir())) == 1  # whole or not at all
    reader = judge(load_classifier(folder / "model"))
    assert features_of(reader, dataset, records, SIZE, tmp_path).shape == (6, 17 + 16)
    assert len(list(tmp_path.iterdir())) == 2


def test_a_vision_model_of_transformers_is_an_extractor(tmp_path):
    from transformers import ViTConfig, ViTModel

    network = ViTModel(
        ViTConfig(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, image_size=32)
    )
    network.save_pretrained(tmp_path / "vit")
    with pytest.raises(ModelError, match="preprocessor_config.json must say"):
        open_extractor(str(tmp_path / "vit"))
    said = {"size": {"height": 32, "width": 32}, "image_mean": [0.5] * 3, "image_std": [0.5] * 3}
    (tmp_path / "vit" / "preprocessor_config.json").write_text(json.dumps(said))
    extractor = open_extractor(str(tmp_path / "vit"))
    images = [drawn_chest(SIZE, 1), drawn_chest(40, 2), drawn_chest(SIZE, 3)]
    rows = extractor.read(images)
    assert rows.shape == (3, 16) and extractor.name.startswith("transformers ")
    np.testing.assert_allclose(extractor.read(images[::-1])[::-1], rows, atol=1e-5)


def test_rad_dino_s_layout_is_read_as_it_was_published(tmp_path, folder):
    """A DINOv2 whose preprocessor_config.json says a shortest edge and a crop; its pooled output is the class token."""
    from transformers import Dinov2Config, Dinov2Model

    torch.manual_seed(0)
    network = Dinov2Model(
        Dinov2Config(hidden_size=24, num_hidden_layers=2, num_attention_heads=2, image_size=56, patch_size=14)
    ).eval()
    network.save_pretrained(tmp_path / "dino")
    said = {
        "crop_size": {"height": 56, "width": 56}, "do_center_crop": True, "do_resize": True, "resample": 3,
        "image_mean": [0.5307] * 3, "image_std": [0.2583] * 3, "rescale_factor": 1 / 255,
        "image_processor_type": "BitImageProcessor", "size": {"shortest_edge": 56},
    }  # fmt: skip
    (tmp_path / "dino" / "preprocessor_config.json").write_text(json.dumps(said))
    extractor = open_extractor(str(tmp_path / "dino"))
    images = [drawn_chest(56, seed) for seed in range(3)]
    inputs = (torch.from_numpy(np.stack(images))[:, None].float() / 255 - 0.5307) / 0.2583
    with torch.inference_mode():
        expected = network(inputs.expand(-1, 3, -1, -1)).pooler_output.numpy()
    np.testing.assert_allclose(extractor.read(images), expected, atol=1e-5)
    assert len(open_extractor(str(tmp_path / "dino")).name) == len("transformers ") + 64
    # Other weights in the same folder are another extractor, and what was kept of these isn't theirs.
    dataset = Dataset.open(folder / "alike")
    features_of(extractor, dataset, dataset.records[:3], SIZE, tmp_path / "cache")
    Dinov2Model(network.config).save_pretrained(tmp_path / "dino")
    other = open_extractor(str(tmp_path / "dino"))
    features_of(other, dataset, dataset.records[:3], SIZE, tmp_path / "cache")
    assert other.name != extractor.name and len(list((tmp_path / "cache").iterdir())) == 2


def test_extractors_that_are_not_there_say_what_to_do(monkeypatch):
    def asked(source: str) -> None:
        raise ModelError(f"asked for {source}")

    monkeypatch.setattr(features, "resolve", asked)  # nothing is fetched in tests
    with pytest.raises(ModelError, match="asked for microsoft/rad-dino@[0-9a-f]{40}$"):
        open_extractor("rad-dino")
    with pytest.raises(ModelError, match="asked for microsoft/rad-dino@main$"):
        open_extractor("rad-dino@main")
    monkeypatch.undo()
    with pytest.raises(ModelError, match="hub id with its revision"):
        open_extractor("nowhere")
    try:
        import torchxrayvision  # noqa: F401
    except (ImportError, RuntimeError):
        from synthcxr.errors import UserError

        with pytest.raises(UserError, match=r'pip install "synthcxr\[xrv\]"'):
            open_extractor("xrv:densenet121-res224-all")
