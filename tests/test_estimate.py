"""Memory by estimate: the parameters are those that are trained, and what is saved shows."""

from pathlib import Path

import pytest
from base_folders import FOLDERS

from synthcxr.config import load_config
from synthcxr.errors import ModelError
from synthcxr.model.folder import load_model
from synthcxr.train.base_module import build_module
from synthcxr.train.config import TrainConfig
from synthcxr.train.estimate import GIB, Estimate, estimate

CONFIGS = Path(__file__).parents[1] / "configs" / "train"


def told(model: Path, **changes: object) -> tuple[Estimate, TrainConfig]:
    config = TrainConfig(data=["x"], output="y", resolution=64, base={"model": str(model), "batch_size": 4, **changes})
    return estimate(config, half=False), config


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return FOLDERS["sd15"](tmp_path_factory.mktemp("base") / "sd15")


@pytest.mark.parametrize("changes", [{}, {"lora": {"rank": 3}}, {"lora": {"rank": 3, "text_encoder": True}}])
def test_parameters_are_those_that_are_trained(folder, changes):
    guessed, config = told(folder, **changes)
    module = build_module(load_model(folder).pipeline.to("cpu"), config.base, 0, half=False)
    # As a stage does before: see BaseStage._cache.
    if not changes:
        module.text_encoders.requires_grad_(False)
    assert guessed.trained == sum(p.numel() for p in module.parameters() if p.requires_grad)


def test_what_saves_memory_saves_it(folder):
    full, parts, again = (
        told(folder, **changes)[0] for changes in ({}, {"accumulate": 4}, {"gradient_checkpointing": True})
    )
    assert 3 < full.activations / parts.activations < 5 and again.activations < full.activations
    assert told(folder, lora={"rank": 2})[0].moments < full.moments / 5


@pytest.mark.slow
def test_adapters_of_stable_diffusion_fit_12_gib():
    config = load_config(TrainConfig, CONFIGS / "sd15-lora.yaml")
    guessed = estimate(config, half=True)
    assert guessed.frozen == 859_520_964  # the UNet of Stable Diffusion 1.x, as published
    assert 4 * GIB < guessed.total < 12 * GIB


def test_a_model_of_unknown_shape_gives_no_estimate():
    with pytest.raises(ModelError, match="shape isn't known"):
        told(Path("someone/unheard-of@main"))
