"""The command `synthcxr calibrate`: the screen's limits, measured on the radiographs that a model was trained on."""

import tempfile
from contextlib import nullcontext
from pathlib import Path

import numpy as np
from pydantic import Field
from tqdm import tqdm

from synthcxr.config import Config
from synthcxr.data.corpus import Corpus, load_corpus
from synthcxr.data.dataset import Dataset
from synthcxr.errors import ConfigError
from synthcxr.evaluation.feature_set import one_a_patient
from synthcxr.evaluation.pixels import pixel_features
from synthcxr.model.classifier import Classifier, load_classifier
from synthcxr.model.folder import ModelInfo, load_model
from synthcxr.synthesis.screen.calibration import Calibration, Limits, save_calibration
from synthcxr.synthesis.screen.condition import fit_limits
from synthcxr.synthesis.screen.distribution import fit_gaussian
from synthcxr.synthesis.screen.privacy import build_index


class CalibrateConfig(Config):
    """What `synthcxr calibrate` needs; `data` and `per_patient` are those that the model was trained with."""

    model: Path = Field(description="MODEL folder with a classifier; its screen is written or replaced")
    data: tuple[Path, ...] = Field(min_length=1, description="DATASET folders; their test patients are never read")
    per_patient: int = Field(5, ge=1)
    cache: Path | None = Field(None, description="of the training run, whose pixels are then there already")
    rate: float = Field(0.95, gt=0.5, lt=1, description="share of real radiographs as asked that passes each demand")
    outliers: float = Field(0.01, gt=0, lt=0.5, description="share of real ones that counts as unlike real ones")
    alpha: float = Field(0.01, gt=0, lt=0.5, description="share of fresh real ones that may count as copies")
    seed: int = 0


def run(config: CalibrateConfig) -> Limits:
    """Measure the limits of every check and write them, with the index, to `model/screen`.

    The model's hash doesn't change: it says what the pictures are, not what becomes of them.

    Raises:
        ModelError: no such model, or it has no classifier.
        ConfigError: the model was trained on other images.
        AuditError: too few held-out patients for `alpha`.
    """
    info, classifier = load_model(config.model).info, load_classifier(config.model)
    datasets = [Dataset.open(path) for path in config.data]
    with tempfile.TemporaryDirectory() if config.cache is None else nullcontext(config.cache) as cache:
        train, held_out = (
            load_corpus(datasets, split, info.resolution, config.per_patient, Path(cache))
            for split in ("train", "validate")
        )
        _check_same(info, train)
        calibration = calibrate(config, classifier, train, held_out)
    save_calibration(calibration, config.model)
    return calibration.limits


def calibrate(config: CalibrateConfig, classifier: Classifier, train: Corpus, held_out: Corpus) -> Calibration:
    """The limits, from a model's training images and images of patients that neither it nor the classifier saw.

    Copies and outliers are calibrated on one random image of each held-out patient, what's asked on all of them.
    """
    whose = [np.array([record.patient for record in corpus.records]) for corpus in (train, held_out)]
    one_each = [one_a_patient(patients, config.seed) for patients in whose]
    of_train = classifier.read(tqdm(train.pixels, "training images"))
    of_held_out = classifier.read(tqdm(held_out.pixels, "held-out images"))
    gaussian = fit_gaussian(of_train.features, of_held_out.features[one_each[1]], 1 - config.outliers)
    features = pixel_features(tqdm(train.pixels, "index"))
    index = build_index(features, one_each[0], held_out.pixels[np.sort(one_each[1])], config.alpha, config.seed)
    conditions = [record.condition for record in held_out.records]
    limits = Limits(
        classifier=classifier.hash, data_hash=train.hash, images=len(train.records), patients=len(one_each[1]),
        outliers=config.outliers, alpha=config.alpha, distance=gaussian.limit,
        condition=fit_limits(of_held_out, conditions, whose[1], config.rate),
    )  # fmt: skip
    return Calibration(limits, gaussian, index)


def _check_same(info: ModelInfo, train: Corpus) -> None:
    if info.data_hash not in (None, train.hash):
        raise ConfigError(
            "data: these aren't the images that the model was trained on, whose copies are to be found; give the same "
            "DATASETs, in the same order, and the same per_patient"
        )
