"""One feature set in a privacy audit: what is near to what, and what that says of copying."""

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from pydantic import Field

from synthcxr.config import Config
from synthcxr.evaluation.copying import (
    CELL_ROWS,
    authentic,
    authenticity_gap,
    calibrated_p,
    data_copying,
    excess_rate,
)
from synthcxr.evaluation.neighbours import Neighbours, nearest
from synthcxr.evaluation.scores import Score, eval_module
from synthcxr.runs import derive_seed

CELLS, CELL_IMAGES = 10, 100  # most cells of the data-copying test, and fewest images a cell on average
COMPONENTS = 32  # of features, where sets are told apart or cut in cells


class AuditSettings(Config):
    """How strict an audit is."""

    alpha: float = Field(0.01, gt=0, lt=0.5, description="share of fresh real images that may count as copies")
    max_excess: float = Field(0.02, gt=0, lt=1, description="bound on the upper end of the excess copy rate")
    fdr: float = Field(0.1, gt=0, lt=1, description="expected share of false entries on the list of suspects")
    neighbours: int = Field(50, ge=1, description="further neighbours that the nearest is compared with")
    sample: int = Field(2000, ge=100, description="images and patients, at most, where a sample of them will do")
    max_membership: float = Field(0.6, ge=0.5, le=1, description="bound on the lower end of a membership test's AUC")
    seed: int = 0


class Search(Protocol):
    """`nearest`, `nearest_shifted` or the like."""

    def __call__(
        self, queries: np.ndarray, reference: np.ndarray, k: int, groups: np.ndarray | None, own: np.ndarray | None
    ) -> Neighbours: ...


@dataclass(frozen=True, eq=False)
class Planted:
    """Features (n, ...) of copies that were altered in one way; see `copies.COPIES`."""

    kind: str
    features: np.ndarray


@dataclass(frozen=True, eq=False)
class FeatureSet:
    """One extractor's features (rows, ...) of everything; rows are images, in one order for all sets.

    `of_model`: the extractor belongs to the audited model, and so may know its training images by itself.
    """

    name: str
    train: np.ndarray
    held_out: np.ndarray
    synthetic: np.ndarray
    planted: tuple[Planted, ...]
    search: Search = nearest
    of_model: bool = False


@dataclass(frozen=True, eq=False)
class SetAudit:
    """What one feature set says.

    Attributes:
        excess: rate of images whose nearest training image is too near; see `copying.excess_rate`.
        nearness: the same for d1 / mean(d2 ... d51), small where one training image stands out as near.
        data_copying, authenticity: see `copying`.
        distance, index: (n,) d1 of the synthetic images and the training image it's to.
        held_out_distance: (m,) d1 of the held-out images.
    """

    name: str
    excess: Score
    nearness: Score
    data_copying: Score
    authenticity: Score
    distance: np.ndarray
    index: np.ndarray
    held_out_distance: np.ndarray

    def remark(self) -> str | None:
        """What d1 and d1 / mean(d2 ...) say together, in plain words; None where neither exceeds what chance gives.

        A picture with less in it than a radiograph has (smoother, flatter) is near to every one: d1 falls, and the
        distances to the next patients fall with it, so that nearly all of the excess is gone in the ratio. A copy is
        near to one patient, and keeps its excess.
        """
        near, alone = (f"{s.value:.1%} ({s.low:.1%} to {s.high:.1%})" for s in (self.excess, self.nearness))
        if self.excess.low <= 0:
            if self.nearness.low <= 0:
                return None
            return (
                f"By {self.name}, pictures lie no nearer to training images than held-out patients do, but {alone} "
                "more than chance gives are nearer to one patient than to the next: look for much changed copies."
            )
        told = (
            f"By {self.name}, {near} more pictures than chance gives lie near to a training image. Set against the "
            f"distances to the next patients, d1 / mean(d2 ...), it's {alone}: "
        )
        if self.nearness.high < self.excess.low:
            return told + (
                "most of them are near to many patients alike, as smooth or bland pictures are, where a copy is near "
                "to one. They count in the excess copy rate all the same; the suspects show which it is."
            )
        if self.nearness.low > 0:
            return told + "they are near to one patient, which is how copies look."
        return told + "too few pictures to say whether they are near to one patient, as copies are, or to many."


class Found:
    """Nearest neighbours by one feature set, and d1 of everything on the scale of training images.

    Attributes:
        held_out, synthetic: (m,), (n,) ranks in [0, 1]; planted: one such array a kind.
    """

    def __init__(self, features: FeatureSet, train_patients: np.ndarray, settings: AuditSettings):
        self.features = features
        names, self.codes = np.unique(train_patients, return_inverse=True)
        k = min(settings.neighbours + 1, len(names) - 1)
        self.rows = one_a_patient(train_patients, settings.seed)[: settings.sample]
        parts = [features.synthetic, features.held_out, *(planted.features for planted in features.planted)]
        own = np.concatenate([np.full(sum(map(len, parts)), -1), self.codes[self.rows]])
        parts.append(features.train[self.rows])
        whole = features.search(np.concatenate(parts), features.train, k, self.codes, own)
        edges = np.cumsum([len(part) for part in parts])[:-1]
        distances, indices = np.split(whole.distance, edges), np.split(whole.index, edges)
        self.near_synthetic, self.near_held_out = (Neighbours(distances[i], indices[i]) for i in (0, 1))
        scale = np.sort(distances[-1][:, 0])
        self.synthetic, self.held_out, *self.planted = (_rank(part[:, 0], scale) for part in distances[:-1])

    def scores(self, prompts: np.ndarray | None, settings: AuditSettings) -> SetAudit:
        name, s, h = self.features.name, self.near_synthetic, self.near_held_out

        def excess(what: str, of_synthetic: np.ndarray, of_held_out: np.ndarray) -> Score:
            p = calibrated_p(of_synthetic, of_held_out)
            return excess_rate(f"{what}, {name}", p, settings.alpha, len(of_held_out), prompts)

        return SetAudit(
            name,
            excess("excess copy rate", s.distance[:, 0], h.distance[:, 0]),
            excess("excess by d1 / mean(d2 ...)", _ratio(s.distance), _ratio(h.distance)),
            data_copying(f"data copying, {name}", h.distance[:, 0], s.distance[:, 0], *self._cells(settings)),
            self._authenticity(prompts, settings),
            s.distance[:, 0], s.index, h.distance[:, 0],
        )  # fmt: skip

    def _cells(self, settings: AuditSettings) -> tuple[np.ndarray, np.ndarray]:
        """Cells of held-out and synthetic images: k-means of some training images' principal components."""
        fitted, asked = flat(self.features.train[self.rows]), (self.features.held_out, self.features.synthetic)
        axes = components(fitted, settings.seed)
        cells = int(np.clip(min(map(len, asked)) // CELL_IMAGES, 1, CELLS))
        means = eval_module("sklearn.cluster").KMeans(cells, n_init=3, random_state=settings.seed % 2**32)
        means.fit(axes.transform(fitted))
        held_out, synthetic = (means.predict(axes.transform(flat(rows))) for rows in asked)
        shared = np.minimum(*(np.bincount(part, minlength=cells) for part in (held_out, synthetic)))
        if shared.max() < CELL_ROWS:  # pictures where no patient lies: all in one cell
            return np.zeros_like(held_out), np.zeros_like(synthetic)
        return held_out, synthetic

    def _authenticity(self, prompts: np.ndarray | None, settings: AuditSettings) -> Score:
        """By at most `settings.sample` images of each: the training images they're near to are searched as well."""
        rng = np.random.default_rng(derive_seed(settings.seed, "authenticity"))
        parts = (self.near_held_out, self.near_synthetic)
        chosen = [rng.permutation(len(part.index))[: settings.sample] for part in parts]
        asked = np.unique(np.concatenate([part.index[rows] for part, rows in zip(parts, chosen, strict=True)]))
        train = self.features.train
        reach = np.full(len(train), np.nan)
        reach[asked] = self.features.search(train[asked], train, 1, self.codes, self.codes[asked]).distance[:, 0]
        held_out, synthetic = (
            authentic(part.distance[rows, 0], part.index[rows], reach) for part, rows in zip(parts, chosen, strict=True)
        )
        clusters = None if prompts is None else prompts[chosen[1]]
        return authenticity_gap(f"authenticity gap, {self.features.name}", held_out, synthetic, clusters)


def one_a_patient(patients: np.ndarray, seed: int) -> np.ndarray:
    """Rows of one random image of each patient, in random order."""
    order = np.random.default_rng(derive_seed(seed, "one image a patient")).permutation(len(patients))
    _, first = np.unique(patients[order], return_index=True)
    return order[np.sort(first)]


def components(features: np.ndarray, seed: int) -> Any:
    """Whitened principal components fitted to (n, d) features."""
    count = min(COMPONENTS, len(features) - 1, features.shape[1])
    decomposition = eval_module("sklearn.decomposition")
    return decomposition.PCA(count, whiten=True, svd_solver="randomized", random_state=seed % 2**32).fit(features)


def flat(features: np.ndarray) -> np.ndarray:
    return features.reshape(len(features), -1)


def _rank(distance: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """Share of the sorted scale at or below each distance, linear in between and down to 0 at distance 0.

    Linear, so that of two images nearer than all of the scale the nearer one stays nearer.
    """
    steps = np.unique(scale[(scale > 0) & np.isfinite(scale)])
    shares = np.searchsorted(scale, steps, side="right") / (len(scale) + 1)
    return np.interp(distance, np.concatenate([[0.0], steps]), np.concatenate([[0.0], shares]))


def _ratio(distances: np.ndarray) -> np.ndarray:
    """d1 / mean(d2 ...): (n, k) -> (n,); 1 where all are 0."""
    others = distances[:, 1:].mean(axis=1)
    return np.divide(distances[:, 0], others, out=np.ones(len(distances)), where=others > 0)
