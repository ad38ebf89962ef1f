"""The feature sets of an audit: pixels, a random network, and where there's a model its autoencoder.

The second is a network with random weights on purpose. An encoder that was trained on the training images may see them
as nothing else, and one trained elsewhere isn't at hand; random convolutions keep what is alike alike (Saxe et al.
2011), and know neither patient.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch.nn.functional import adaptive_avg_pool2d

from synthcxr.data.curate.decide import Extractor
from synthcxr.evaluation.copies import COPIES, planted_copy
from synthcxr.evaluation.feature_set import FeatureSet, Planted, Search
from synthcxr.evaluation.features import batched, open_extractor
from synthcxr.evaluation.neighbours import nearest
from synthcxr.evaluation.pixels import SIZE, nearest_shifted
from synthcxr.images import to_float, to_square
from synthcxr.model.classifier import ClassifierShape, build_classifier, shrunk
from synthcxr.model.folder import Model
from synthcxr.model.hashes import module_hash
from synthcxr.model.latents import posterior

SHAPE, GRID = ClassifierShape(), 4  # places a side that keep where in the picture something is


@dataclass(frozen=True)
class View:
    """One way to look at images in an audit.

    Attributes:
        extractor: gives rows (n, d).
        search: finds neighbours among rows that `prepared` made of them.
    """

    name: str
    extractor: Extractor
    search: Search
    of_model: bool = False


def views(model: Model | None, search: Search = nearest) -> list[View]:
    """Three, or without a model two; pixels are compared over shifts, the others as `search` does."""
    found = [View("pixels", open_extractor("pixels"), nearest_shifted), View("random network", _random(), search)]
    return [*found, View("autoencoder", _autoencoder(model), search, of_model=True)] if model else found


def feature_set(
    view: View,
    train: np.ndarray,
    held_out: np.ndarray,
    synthetic: np.ndarray,
    planted: Sequence[tuple[str, np.ndarray]],
) -> FeatureSet:
    """Rows of everything in the form that the view's search takes.

    Features are whitened, number by number, by the training images: held-out and fresh images are then treated alike.
    """
    prepared = prepare(view, train)
    copies = tuple(Planted(kind, prepared(rows)) for kind, rows in planted)
    return FeatureSet(
        view.name, prepared(train), prepared(held_out), prepared(synthetic), copies, view.search, view.of_model
    )


def copies_of(images: Sequence[np.ndarray], kind: str, seed: int) -> list[np.ndarray]:
    """Each image altered in one way of COPIES, by chance of its own."""
    return [planted_copy(image, kind, seed + number) for number, image in enumerate(images)]


KINDS = tuple(COPIES)


def prepare(view: View, train: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """From an extractor's rows to what the view's search takes, by the rows of the training images."""
    if view.search is nearest_shifted:
        return lambda rows: np.asarray(rows, dtype=np.float32).reshape(-1, SIZE, SIZE)
    mean, deviation = train.mean(0, dtype=np.float64), train.std(0, dtype=np.float64)
    gain = np.divide(1.0, deviation, out=np.zeros_like(deviation), where=deviation > 1e-6)
    return lambda rows: ((rows - mean) * gain).astype(np.float32)


def _random() -> Extractor:
    """(n, 128 * 16): the third stage of the classifier's architecture with fixed random weights, on a 4 x 4 grid."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = build_classifier(SHAPE).eval()

    def forward(images_bchw: torch.Tensor) -> torch.Tensor:
        told = network(shrunk(images_bchw, SHAPE.size), output_hidden_states=True)
        return adaptive_avg_pool2d(told.hidden_states[-2], GRID).flatten(1)

    return Extractor(f"random network, torch {torch.__version__}", batched(forward))


def _autoencoder(model: Model) -> Extractor:
    """(n, c * h * w): the mean of the latents of the model's own autoencoder."""
    vae, size = model.pipeline.vae, model.info.resolution

    def squared(images: Iterable[np.ndarray]) -> Iterable[np.ndarray]:
        return (to_square(to_float(image), size) for image in images)

    def forward(images_bchw: torch.Tensor) -> torch.Tensor:
        return posterior(vae, images_bchw)[0].flatten(1)

    read = batched(forward)
    # By its own weights, not the model's: what was computed serves the next checkpoint, whose autoencoder is the same.
    return Extractor(f"autoencoder at {size} px {module_hash(vae)}", lambda images: read(squared(images)))
