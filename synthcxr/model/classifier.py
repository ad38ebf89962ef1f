"""The classifier beside the generator: findings, sex, view and age of a radiograph, and features to compare by.

It's transformers' own ResNet (He et al. 2016), small; its labels stand in the configuration, so that
`ResNetForImageClassification.from_pretrained` opens it anywhere. Calibration is folded into the last layer.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from pydantic import Field
from torch.nn.functional import interpolate
from transformers import ResNetConfig, ResNetForImageClassification

from synthcxr.conditions import Condition
from synthcxr.config import Config
from synthcxr.errors import ModelError, shown
from synthcxr.files import hash_files
from synthcxr.images import to_float
from synthcxr.model.folder import CLASSIFIER, EMBEDDED, UNLOADABLE, resolve
from synthcxr.vocabulary import NIH_LABELS, Finding

FINDINGS = tuple(finding for finding in NIH_LABELS.values() if finding is not Finding.NO_FINDING)
MALE, AP, AGE = "male", "AP", "age"
LABELS = (*(finding.value for finding in FINDINGS), MALE, AP, AGE)
AGE_MEAN, AGE_SCALE = 50.0, 15.0  # years; the age is told as (years - mean) / scale


class ClassifierShape(Config):
    """Widths of the classifier; the default has 2.8 million parameters and takes 0.3 GFLOP an image."""

    size: int = Field(128, ge=32, description="pixels a side of what it looks at")
    channels: tuple[int, ...] = Field((32, 64, 128, 256), description="at 1/4, 1/8, 1/16 and 1/32 of the size")
    depths: tuple[int, ...] = (2, 2, 2, 2)


@dataclass(frozen=True)
class Readings:
    """What the classifier says of n images.

    Attributes:
        findings: (n, 14) calibrated probabilities, in the order of FINDINGS.
        male, ap: (n,) probabilities.
        age: (n,) years.
        features: (n, d) pooled features.
    """

    findings: np.ndarray
    male: np.ndarray
    ap: np.ndarray
    age: np.ndarray
    features: np.ndarray


class Classifier:
    """A trained classifier, ready to read."""

    def __init__(self, network: ResNetForImageClassification, hash: str):
        self.network, self.hash = network.eval(), hash

    @torch.no_grad()
    def read(self, pixels: Iterable[np.ndarray], batch_size: int = 64) -> Readings:
        """Read uint8 or uint16 (h, w) images of any size, square ones best; the same whatever the batch size."""
        logits, features, batch = [], [], []

        def flush() -> None:
            if batch:
                told = self.network(torch.cat(batch), output_hidden_states=True)
                logits.append(told.logits.float().cpu())
                features.append(_mean(told.hidden_states[-1]).cpu())
                batch.clear()

        for image in pixels:
            batch.append(shrunk(torch.from_numpy(to_float(image))[None, None], self.network.config.image_size))
            if len(batch) == batch_size:
                flush()
        flush()
        if not logits:
            raise ValueError("no image to read")
        told = torch.cat(logits).double().numpy()
        chances = 1 / (1 + np.exp(-told[:, :-1]))
        age = told[:, -1] * AGE_SCALE + AGE_MEAN
        return Readings(
            chances[:, : len(FINDINGS)], chances[:, -2], chances[:, -1], age, torch.cat(features).double().numpy()
        )


def build_classifier(shape: ClassifierShape) -> ResNetForImageClassification:
    """A classifier with fresh weights from torch's global generator."""
    config = ResNetConfig(
        num_channels=1,
        embedding_size=shape.channels[0],
        hidden_sizes=list(shape.channels),
        depths=list(shape.depths),
        layer_type="basic",
        id2label=dict(enumerate(LABELS)),
        label2id={label: index for index, label in enumerate(LABELS)},
        problem_type="multi_label_classification",
        image_size=shape.size,
    )
    return ResNetForImageClassification(config)


def targets(conditions: Iterable[Condition]) -> np.ndarray:
    """(n, 17) float32 in the order of LABELS; NaN where it isn't known.

    Of a labelled image, a finding that isn't listed is taken for absent, as the tables of NIH and CheXpert mean it; one
    without any label tells nothing.
    """
    return np.array([_target(condition) for condition in conditions], dtype=np.float32).reshape(-1, len(LABELS))


def _target(condition: Condition) -> list[float]:
    stated, unknown = condition.findings, float("nan")
    value = {"present": 1.0, "absent": 0.0, "uncertain": unknown}
    findings = [value[stated[f].state] if f in stated else (0.0 if stated else unknown) for f in FINDINGS]
    male = unknown if condition.sex is None else float(condition.sex == "male")
    ap = {"AP": 1.0, "PA": 0.0}.get(condition.view or "", unknown)
    age = unknown if condition.age is None else (condition.age - AGE_MEAN) / AGE_SCALE
    return [*findings, male, ap, age]


def shrunk(images_bchw: torch.Tensor, size: int) -> torch.Tensor:
    """(b, 1, h, w) -> (b, 1, size, size), antialiased."""
    if images_bchw.shape[-2:] == (size, size):
        return images_bchw
    return interpolate(images_bchw, (size, size), mode="bilinear", antialias=True)


def pooled(network: ResNetForImageClassification, images_bchw: torch.Tensor) -> torch.Tensor:
    """The features of `Readings`, (b, d), of images that are `shrunk` already."""
    return _mean(network.resnet(images_bchw).last_hidden_state)


def _mean(hidden_bchw: torch.Tensor) -> torch.Tensor:
    return hidden_bchw.mean(dim=(2, 3)).float()


def load_classifier(source: str | Path | None = None) -> Classifier:
    """The classifier of a MODEL folder (None: the embedded one), with float32 weights.

    Raises:
        ModelError: the model has none, or its files are damaged.
    """
    return open_classifier(resolve(EMBEDDED if source is None else source) / CLASSIFIER)


def open_classifier(folder: Path) -> Classifier:
    """The classifier in a folder of its own; see `load_classifier`."""
    if not (folder / "config.json").is_file():
        raise ModelError(f"{shown(folder)} holds no classifier; train one (classifier.steps), or give another model")
    try:
        network = ResNetForImageClassification.from_pretrained(folder, dtype=torch.float32, use_safetensors=True)
    except UNLOADABLE as error:
        reason = " ".join(str(error).split())[:200]
        raise ModelError(f"{shown(folder)} can't be loaded ({reason}); restore its files or train again") from error
    if tuple(network.config.id2label.values()) != LABELS:
        raise ModelError(f"{shown(folder)} tells other labels than {', '.join(LABELS)}; train it again")
    return Classifier(network, hash_files(folder.glob("*")))
