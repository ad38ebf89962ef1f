"""What an experiment varies: sets of synthetic images, how many of them, backbones, the pair of a shortcut."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from downstream_drawn import HEART, SIZE, WATER, config_for, write
from transformers import (
    CLIPVisionConfig,
    CLIPVisionModel,
    ConvNextConfig,
    ConvNextForImageClassification,
    PreTrainedModel,
    ResNetConfig,
    ResNetForImageClassification,
    SwinConfig,
    SwinForImageClassification,
)

from synthcxr.downstream.bench import open_bench
from synthcxr.downstream.cell import cells_of, load_predictions
from synthcxr.downstream.labels import values_of
from synthcxr.downstream.measure import MACRO
from synthcxr.downstream.network import build_network, fingerprint
from synthcxr.downstream.run import run
from synthcxr.downstream.subsets import CELLS, phi
from synthcxr.downstream.summary import Summary
from synthcxr.errors import ModelError

ENCODERS: dict[str, PreTrainedModel] = {
    "resnet": lambda: ResNetForImageClassification(
        ResNetConfig(num_channels=3, embedding_size=8, hidden_sizes=[8, 8], depths=[1, 1], layer_type="basic")
    ),
    "convnext": lambda: ConvNextForImageClassification(
        ConvNextConfig(num_channels=3, hidden_sizes=[8, 8, 8, 8], depths=[1, 1, 1, 1], image_size=SIZE)
    ),
    "swin": lambda: SwinForImageClassification(
        SwinConfig(image_size=SIZE, patch_size=2, embed_dim=8, depths=[1, 1], num_heads=[1, 1], window_size=4)
    ),
    "encoder without a classifier": lambda: CLIPVisionModel(
        CLIPVisionConfig(
            hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1, image_size=16, patch_size=8
        )
    ),
}


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `real`, 80 patients of whom 20 are for training, and `synthetic`, five times as many images."""
    folder = tmp_path_factory.mktemp("drawn")
    write(folder / "real", "real", 80, 0)
    write(folder / "synthetic", "synthetic", 100, 1)
    return folder


def test_an_arm_learns_from_the_synthetic_set_it_names(drawn: Path, tmp_path: Path) -> None:
    write(drawn / "wrong", "synthetic", 100, 1, mislabelled=True)
    config = config_for(
        drawn, tmp_path / "out", synthetic={"right": drawn / "synthetic", "wrong": drawn / "wrong"}, seeds=1, least=5,
        arms=["real", "synthetic of right", "synthetic of wrong"], fractions=[1.0], multiples=[5],
        training={"steps": 60, "batch_size": 16, "warmup": 3, "checks": 1, "learning_rate": 0.01},
    )  # fmt: skip
    result = run(config)
    area = {p.arm: p.measured.value for p in result.points if (p.metric, p.label) == ("AUROC", MACRO)}
    assert area["synthetic-right"] > 0.8 and area["synthetic-wrong"] < 0.2
    assert {one.arm for one in result.comparisons} == {"synthetic-right", "synthetic-wrong"}


def test_multiples_of_synthetic_images_are_trained_and_told_apart(drawn: Path, tmp_path: Path) -> None:
    config = config_for(
        drawn, tmp_path / "out", seeds=1, least=5, fractions=[1.0], multiples=[1, 2, 5], arms=["real", "synthetic"]
    )
    result = run(config)
    bench, told = open_bench(config), {}
    for cell in cells_of(config):
        told[cell.multiple] = load_predictions(tmp_path / "out" / "cells", cell, bench.hash).told.synthetic
    assert told == {0: 0, 1: 20, 2: 40, 5: 100}
    assert {one.multiple for one in result.comparisons} == {1, 2, 5}
    assert "5 synthetic images a real training image" in (tmp_path / "out" / "report.html").read_text()


@pytest.mark.parametrize("name", ENCODERS)
def test_a_backbone_is_an_image_encoder_of_transformers(drawn: Path, tmp_path: Path, name: str) -> None:
    torch.manual_seed(0)
    encoder = ENCODERS[name]()
    encoder.save_pretrained(tmp_path)
    labels = (HEART, WATER, "male")
    config = config_for(drawn, tmp_path / "out", backbone=str(tmp_path))
    network, again = build_network(config, labels, 1), build_network(config, labels, 1)
    assert fingerprint(network) == fingerprint(again) != fingerprint(build_network(config, labels, 2))
    kept = {key.removeprefix("model.").removeprefix("encoder."): value for key, value in network.state_dict().items()}
    body = {key: value for key, value in encoder.state_dict().items() if not key.startswith("classifier")}
    assert all(torch.equal(kept.get(key, network.state_dict().get(f"model.encoder.{key}")), body[key]) for key in body)
    fresh = build_network(config.model_copy(update={"pretrained": False}), labels, 1)
    assert fingerprint(fresh) != fingerprint(network)
    told = network(torch.rand(2, 1, SIZE, SIZE) * 2 - 1)
    assert told.shape == (2, 3)
    told.sum().backward()
    assert all(p.grad is not None for n, p in network.named_parameters() if "classifier" in n or "head" in n)


def test_a_whole_experiment_runs_on_a_backbone(drawn: Path, tmp_path: Path) -> None:
    ENCODERS["resnet"]().save_pretrained(tmp_path / "encoder")
    said = {"image_mean": [0.5, 0.4, 0.3], "image_std": [0.2, 0.2, 0.2]}
    (tmp_path / "encoder" / "preprocessor_config.json").write_text(json.dumps(said))
    fields = {"seeds": 1, "fractions": [1.0], "arms": ["real"], "backbone": str(tmp_path / "encoder"), "least": 5}
    result = run(config_for(drawn, tmp_path / "out", **fields))
    assert result.protocol.network == str(tmp_path / "encoder") and result.comparisons == ()
    assert result.verdict[0].startswith("Nothing was compared")


def test_a_folder_that_is_no_encoder_is_said(drawn: Path, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ModelError, match="can't be loaded as an image encoder"):
        build_network(config_for(drawn, tmp_path / "out", backbone=str(tmp_path)), (HEART,), 0)


def test_a_shortcut_may_be_of_a_pneumothorax_and_its_tube(tmp_path: Path) -> None:
    names = ("Pneumothorax", "Chest Tube")
    write(tmp_path / "real", "real", 400, 0, names)
    write(tmp_path / "synthetic", "synthetic", 80, 1, names)
    shortcut = {"finding": "pneumothorax", "confounder": "chest tube", "correlation": 0.8}
    config = config_for(tmp_path, tmp_path / "out", fractions=[1.0], least=10, shortcut=shortcut)
    bench = open_bench(config)
    assert bench.labels == ("Pneumothorax",) and len(bench.test) == 200
    for split, within in (("train", 0.05), ("validate", 0.05)):
        there, tube = values_of(bench.splits[split].records, names).T
        assert phi(there, tube) == pytest.approx(0.8, abs=within)
        assert np.mean(there) == pytest.approx(0.5, abs=0.05)
    counts = Summary(config, bench, {}).planted().counts
    assert set(counts) == {"train", "validate", "test", "drawn"}
    assert sum(counts["test"]) == 200 and len(counts["test"]) == len(CELLS)
