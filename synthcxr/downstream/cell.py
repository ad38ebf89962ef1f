"""One cell of an experiment (arm, fraction of patients, multiple of synthetic images, seed) and its predictions.

A cell's file holds what anyone needs to compute all numbers again, and appears when it is whole.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from zipfile import BadZipFile

import numpy as np

from synthcxr.config import Config
from synthcxr.downstream.config import Arm, DownstreamConfig
from synthcxr.errors import RunError, shown
from synthcxr.files import atomic_path


class Cell(Config):
    """Which classifier. `fraction` is of the real training patients, 0 where none is trained on; so is `multiple`."""

    arm: str
    fraction: float
    multiple: float
    seed: int

    @property
    def name(self) -> str:
        """That of its file."""
        return f"{self.arm}_fraction-{self.fraction:g}_multiple-{self.multiple:g}_seed-{self.seed}"


class Told(Config):
    """How a cell's classifier came about.

    Attributes:
        data: hash of all images and labels of the experiment.
        labels: the columns of the predictions.
        initial_weights: their sha256; parameters: how many there are.
        augmentation: sha256 of all that was drawn for it, in the order of steps and images.
        steps: of the optimiser, counted as they were done; selected_step is the one whose weights predict.
        checks: macro AUROC on validation patients by step.
        patients, images: real ones that were trained on; synthetic: images that were; seen_*: how often in all.
    """

    cell: Cell
    data: str
    labels: tuple[str, ...]
    initial_weights: str
    augmentation: str
    parameters: int
    steps: int
    batch_size: int
    selected_step: int
    checks: dict[int, float]
    patients: int
    images: int
    synthetic: int
    seen_real: int
    seen_synthetic: int


@dataclass(frozen=True, eq=False)
class Predictions:
    """What a cell's classifier says: float32 probabilities (n, labels) of validation and test images."""

    told: Told
    validate: np.ndarray
    test: np.ndarray

    def save(self, folder: Path) -> None:
        """Write `<name>.npz`, whole or not at all; equal predictions give equal bytes."""
        with atomic_path(folder / f"{self.told.cell.name}.npz") as temporary, open(temporary, "wb") as file:
            np.savez(file, told=np.array(self.told.model_dump_json()), validate=self.validate, test=self.test)


def load_predictions(folder: Path, cell: Cell, data: str) -> Predictions | None:
    """The predictions of a cell; None where it wasn't done yet.

    Raises:
        RunError: the file isn't one, or tells of other data.
    """
    path = folder / f"{cell.name}.npz"
    try:
        with np.load(path, allow_pickle=False) as found:
            told = Told.model_validate_json(str(found["told"]))
            predictions = Predictions(told, found["validate"], found["test"])
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, BadZipFile) as error:
        raise RunError(
            f"{shown(path)} can't be read ({error}); remove it, and the same command makes it again"
        ) from None
    if told.data != data or told.cell != cell:
        raise RunError(f"{shown(path)} was made of other images or labels; give another output or --fresh")
    return predictions


def cells_of(config: DownstreamConfig) -> Iterator[Cell]:
    """All cells, each once: the synthetic arm knows no fraction, the real one no multiple."""
    for arm in config.arms:
        for fraction in config.fractions if arm.real else (0.0,):
            for multiple in config.multiples if arm.synthetic else (0.0,):
                for seed in range(config.seeds):
                    yield Cell(arm=arm.name, fraction=fraction, multiple=multiple, seed=seed)


def arm_of(config: DownstreamConfig, cell: Cell) -> Arm:
    """The arm of a cell."""
    return next(arm for arm in config.arms if arm.name == cell.arm)
