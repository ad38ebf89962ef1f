"""What several tests need: real radiographs where they lie on disk, and a small drawn dataset anywhere."""

import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import settings
from PIL import Image, ImageDraw, ImageFilter

from synthcxr.conditions import Condition, canonical_words
from synthcxr.data.dataset import Dataset
from synthcxr.data.record import Split
from synthcxr.data.writer import DatasetWriter

# A busy machine is no failure.
settings.register_profile("patient", deadline=None)
settings.load_profile("patient")

DEFAULT_DATA = Path(__file__).resolve().parents[2] / "shared" / "data" / "cxr-open"
TINY_SPLITS: tuple[Split, ...] = ("train", "train", "train", "train", "validate", "test")
TINY_FINDINGS = (["Cardiomegaly"], ["Pleural Effusion"], ["No Finding"])


@pytest.fixture(scope="session")
def cxr_open() -> Path:
    """The folder of real open radiographs; tests that need it skip where it isn't."""
    folder = Path(os.environ.get("SYNTHCXR_DATA", DEFAULT_DATA))
    if not (folder / "nih").is_dir():
        pytest.skip("no real radiographs here: set SYNTHCXR_DATA to the folder that holds nih/ and hannover/")
    return folder


def drawn_chest(size: int = 64, seed: int = 0, large_heart: bool = False) -> np.ndarray:
    """uint8 (size, size): two dark lungs and a bright heart on a gray body, with a little noise."""
    rng = np.random.default_rng(seed)
    heart, shift = (0.24 if large_heart else 0.14), float(rng.uniform(-0.03, 0.03))
    image = Image.new("L", (size, size), 20)
    draw = ImageDraw.Draw(image)
    shapes = [(0.05, 0.08, 0.95, 1.0, 150), (0.15, 0.15, 0.45, 0.8, 50), (0.55, 0.15, 0.85, 0.8, 50)]
    shapes.append((0.52 - heart, 0.45, 0.52 + heart, 0.8, 190))
    for left, top, right, bottom, gray in shapes:
        draw.ellipse([size * (left + shift), size * top, size * (right + shift), size * bottom], fill=gray)
    pixels = np.asarray(image.filter(ImageFilter.GaussianBlur(size / 40)), dtype=np.float64)
    return np.clip(pixels + rng.normal(0, 3, pixels.shape), 0, 255).astype(np.uint8)


@pytest.fixture(scope="session")
def tiny_dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """12 drawn images of 64 px: 6 patients (4 train, 1 validate, 1 test) with 2 images each. Not to be changed."""
    path = tmp_path_factory.mktemp("tiny") / "dataset"
    with DatasetWriter(path, origin="real", shard_rows=5) as writer:
        for index in range(12):
            patient = index // 2
            findings = TINY_FINDINGS[index % 3]
            condition = Condition(
                findings=findings,
                age=30 + 7 * patient,
                sex=("female", "male")[patient % 2],
                view=("PA", "AP")[index % 2],
            )
            writer.add(
                drawn_chest(seed=index, large_heart="Cardiomegaly" in findings),
                id=f"drawn-{index:02d}",
                patient=f"patient-{patient}",
                study=f"study-{index}",
                split=TINY_SPLITS[patient],
                source="drawn",
                licence="CC0",
                condition=condition,
            )
    return writer.dataset


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A MODEL folder of 64 px with random weights, which knows chests, hearts and effusions. Not to be changed."""
    import torch

    from synthcxr.model.denoiser import build_scheduler
    from synthcxr.model.embedded import (
        AutoencoderShape,
        DenoiserShape,
        build_autoencoder,
        build_pipeline,
        build_text_encoder,
        build_tokenizer,
        build_unet,
    )
    from synthcxr.model.folder import Model, ModelInfo, save_model

    said = "year old female male pa ap view no acute findings cardiomegaly pleural effusion right"
    words = (*said.split(), *map(str, range(30, 91)))
    shape = DenoiserShape(channels=(16, 32, 32), groups=8, head_width=16, text_width=64, tokens=24)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        autoencoder = build_autoencoder(
            AutoencoderShape(latent_channels=4, channels=(16, 16, 16), detail_channels=(16, 16, 16)), 64
        )
        # Decoder and denoiser start at zero; the prompt must show in a picture all the same.
        torch.nn.init.normal_(autoencoder.linear_decoder.weight, std=0.2)
        for last in (autoencoder.encoder[-1], autoencoder.decoder[-2]):
            torch.nn.init.normal_(last.weight, std=0.02)
        tokenizer = build_tokenizer(canonical_words(), shape.tokens)
        unet, text_encoder = build_unet(shape, 4, 64), build_text_encoder(shape, tokenizer)
        unet.gaussian.fit(torch.randn(40, 4, 4, 4))
        torch.nn.init.normal_(unet.conv_out.weight, std=0.1)
    pipeline = build_pipeline(autoencoder, unet, text_encoder, tokenizer, build_scheduler())
    pipeline.set_progress_bar_config(disable=True)
    info = ModelInfo(
        name="tiny", resolution=64, words=tuple(sorted(words)), findings={"Cardiomegaly": 120, "Pleural Effusion": 7}
    )
    folder = tmp_path_factory.mktemp("model") / "tiny"
    save_model(Model(pipeline, info, "unsaved"), folder, "# tiny: random weights, for tests\n")
    return folder
