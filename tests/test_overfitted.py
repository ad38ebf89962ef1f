"""A small model that `synthcxr train` really overfits is caught by the audit; one that knows nobody by heart isn't."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from synthcxr.conditions import Condition
from synthcxr.data.writer import DatasetWriter
from synthcxr.evaluation.audit_result import AuditResult
from synthcxr.evaluation.audit_run import run
from synthcxr.evaluation.config import AuditConfig
from synthcxr.evaluation.feature_set import AuditSettings
from synthcxr.generate import Generator, Request
from synthcxr.model.folder import load_model
from synthcxr.train.config import TrainConfig
from synthcxr.train.run import run as train

pytest.importorskip("scipy")
pytest.importorskip("sklearn")

SIDE, LEARNED, HELD_OUT, PICTURES, STEPS = 64, 12, 120, 60, 500
RATE = AuditSettings(alpha=0.02, max_excess=0.2, neighbours=5, sample=200)  # of few patients and images
PART = {"batch_size": 32, "warmup": 10, "log_every": 100, "validate_every": STEPS, "checkpoint_every": STEPS}
SHAPE = {"channels": [64], "attention": [True], "groups": 8, "head_width": 16, "text_width": 64, "tokens": 24}


def picture(patient: int) -> np.ndarray:
    """uint8 (64, 64): smooth noise of each patient's own, smooth enough for a block of 16 numbers."""
    coarse = np.random.default_rng(patient).normal(128, 45, (5, 5)).astype(np.float32)
    return np.clip(Image.fromarray(coarse).resize((SIDE, SIDE), Image.Resampling.BICUBIC), 0, 255).astype(np.uint8)


def said(patient: int) -> Condition:
    return Condition(age=20 + 5 * (patient % LEARNED))


def real(path: Path, learned: int, first: int) -> Path:
    """A dataset with so many training patients, from this number on."""
    splits = ("train", learned), ("validate", 8), ("test", HELD_OUT)
    with DatasetWriter(path, origin="real") as writer:
        for number, (split, count) in enumerate(splits):
            for patient in range(first + 1000 * number, first + 1000 * number + count):
                name = f"{split}-{patient}"
                writer.add(
                    picture(patient), id=name, patient=name, study=name, split=split, source="drawn", licence="CC0",
                    condition=said(patient),
                )  # fmt: skip
    return path


def audited(folder: Path, learned: int, steps: int, first: int = 0) -> AuditResult:
    """The audit of a model of so many training patients and steps, of pictures for its training prompts."""
    data = real(folder / "real", learned, first)
    autoencoder = {"latent_channels": 16, "channels": [16, 16, 16], "groups": 8}
    train(
        TrainConfig(
            data=(data,), output=folder / "run", resolution=SIDE, device="cpu", precision="fp32",
            autoencoder={**PART, "steps": 0, "shape": autoencoder, "crop": 32, "validation_images": 8},
            denoiser={
                **PART, "steps": steps, "learning_rate": 3e-3, "ema": 0.98, "weight_decay": 0.0, "variants": 1,
                "caption_dropout": 0, "part_dropout": 0, "negatives": 0, "shape": SHAPE, "sample_steps": 12,
                "sample_guidance": 1.0, "validation_images": 8,
            },
        )
    )  # fmt: skip
    model = load_model(folder / "run" / "model")
    requests = [Request(condition=said(number), seed=number) for number in range(PICTURES)]
    with DatasetWriter(folder / "made", origin="synthetic") as writer:
        for number, drawn in enumerate(Generator(model, batch_size=20)(requests, progress=False)):
            writer.add(
                drawn.pixels, id=f"s{number}", patient=f"s{number}", study=f"s{number}", split="train", source="drawn",
                licence="CC0", condition=drawn.request.condition, prompt=drawn.prompt, seed=number, model=model.hash,
            )  # fmt: skip
    return run(
        AuditConfig(
            train=data, held_out=data, synthetic=folder / "made", model=str(folder / "run" / "model"),
            output=folder / "out", planted=20, settings=RATE, size=SIDE, cache=folder / "cache",
            membership_images=LEARNED, worst_prompts=6, worst_seeds=4,
        )
    )  # fmt: skip


@pytest.mark.slow
def test_an_overfitted_model_is_caught_and_the_result_stands_on_its_card(tmp_path):
    result = audited(tmp_path, LEARNED, STEPS)
    assert not result.passed and any("images are copied" in reason for reason in result.failures)
    told = {one.name: one for one in (result.excess, *result.numbers)}
    assert told["excess copy rate"].low > 0.5
    assert told["excess copy rate, training prompts"].low > 0.1
    assert len({suspect.train for suspect in result.suspects}) >= LEARNED / 2
    # What it's named as a copy of is what it was asked for.
    right = [s.train == f"train-{int(s.synthetic[1:]) % LEARNED}" for s in result.suspects]
    assert np.mean(right) > 0.9
    model = load_model(tmp_path / "run" / "model")
    assert model.hash == result.model and not model.audited and model.info.audit.excess > 0.5
    assert "- privacy audit: not passed" in (tmp_path / "run" / "model" / "README.md").read_text()


@pytest.mark.slow
def test_a_model_of_many_patients_that_learned_none_by_heart_copies_nobody(tmp_path):
    """A few steps, so what it draws is hardly more than the Gaussian of 300 pictures."""
    result = audited(tmp_path, 300, 3, first=5000)
    assert result.excess.low <= 0 and not result.suspects
    assert not any("are copied" in reason or "copies beyond chance" in reason for reason in result.failures)
