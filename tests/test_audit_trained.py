"""`synthcxr train`, pictures, `synthcxr audit`: a model trained too long on too few is caught, an honest one isn't."""

import json
from pathlib import Path

import numpy as np
import pytest
import yaml
from test_audit import RATE, SIDE, anatomy, write
from typer.testing import CliRunner

from synthcxr.cli import app
from synthcxr.data.dataset import Dataset
from synthcxr.evaluation.audit_result import AuditResult
from synthcxr.generate import Generator, Request, SamplerSettings
from synthcxr.model.folder import load_model

pytest.importorskip("scipy")
pytest.importorskip("sklearn")

SAMPLER = {"sampler": "dpm++", "steps": 20, "guidance": 1}
# The block PCA alone: it tells these images well, and isn't what learns them by heart.
AUTOENCODER = {"steps": 0, "validation_images": 4, "shape": {"latent_channels": 32, "channels": [8, 8, 8], "groups": 4}}
DENOISER = {
    "shape": {"channels": [32, 64, 64], "groups": 8, "head_width": 32, "text_width": 64, "tokens": 16},
    "batch_size": 16, "learning_rate": 2e-3, "warmup": 20, "ema": 0.98, "caption_dropout": 0.0, "part_dropout": 0.0,
    "negatives": 0.0, "variants": 1, "validation_images": 4, "sample_steps": 1, "checkpoint_every": 10_000,
    "validate_every": 10_000,
}  # fmt: skip
PICTURES = 48


def command(folder: Path, verb: str, config: dict) -> int:
    """Exit code of `synthcxr VERB config.yaml`."""
    file = folder / f"{verb}.yaml"
    file.write_text(yaml.safe_dump(config))
    said = CliRunner().invoke(app, [verb, str(file)])
    assert said.exception is None or isinstance(said.exception, SystemExit), said.exception
    return said.exit_code


def audited(folder: Path, patients: int, steps: int) -> tuple[int, AuditResult]:
    """Train on so many patients for so many steps, draw pictures, audit: exit code and result."""
    real = {f"train-{n}": [anatomy(n)] for n in range(patients)}
    real |= {f"validate-{n}": [anatomy(800 + n)] for n in range(4)}
    write(folder / "real", "real", real | {f"test-{n}": [anatomy(1000 + n)] for n in range(110)})
    training = {
        "data": [str(folder / "real")], "output": str(folder / "run"), "resolution": SIDE, "device": "cpu",
        "precision": "fp32", "autoencoder": AUTOENCODER, "denoiser": {**DENOISER, "steps": steps},
    }  # fmt: skip
    assert command(folder, "train", training) == 0
    model = load_model(folder / "run" / "model")
    records = [record for record in Dataset.open(folder / "real").records if record.split == "train"]
    asked = [Request(condition=records[n % patients].condition, seed=n) for n in range(PICTURES)]
    drawn = Generator(model, SamplerSettings(**SAMPLER), batch_size=32)(asked, progress=False)
    write(folder / "made", "synthetic", {f"test-s{n}": [one.pixels] for n, one in enumerate(drawn)}, model.hash)
    code = command(folder, "audit", {
        "train": str(folder / "real"), "held_out": str(folder / "real"), "synthetic": str(folder / "made"),
        "output": str(folder / "out"), "model": str(folder / "run" / "model"), "planted": 20, "size": SIDE,
        "settings": RATE.model_dump(), "membership_images": 100, "worst_prompts": 6, "worst_seeds": 2,
        "sampler": SAMPLER, "cache": str(folder / "cache"),
    })  # fmt: skip
    return code, AuditResult.model_validate(json.loads((folder / "out" / "result.json").read_text()))


@pytest.mark.slow
def test_a_model_trained_too_long_on_few_patients_is_caught(tmp_path):
    code, result = audited(tmp_path, patients=12, steps=500)
    told = {one.name: one for one in result.numbers}
    assert code == 1 and not result.passed and result.excess.low > 0.3, result.excess
    assert told["excess copy rate, training prompts"].low > 0.2
    assert any("images are copied" in reason for reason in result.failures)
    assert not load_model(tmp_path / "run" / "model").audited
    # Copies of those whose prompts were given: named beside the pictures.
    assert len({suspect.train for suspect in result.suspects}) >= 6


@pytest.mark.slow
def test_a_model_trained_on_many_patients_passes(tmp_path):
    code, result = audited(tmp_path, patients=400, steps=150)
    told = {one.name: one for one in result.numbers}
    assert code == 0 and result.passed, result.failures
    assert result.excess.low <= 0 and told["membership by loss"].low <= 0.6
    assert load_model(tmp_path / "run" / "model").audited
    assert np.isfinite(told["excess copy rate, pixels"].value)
