"""Datasets as an evaluation reads them: some records, and what extractors and the judge say of them."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from synthcxr.conditions import to_prompt
from synthcxr.data.curate.decide import Extractor
from synthcxr.data.dataset import Dataset
from synthcxr.data.record import Record, Split
from synthcxr.errors import DatasetError, ModelError, shown
from synthcxr.evaluation.compare import Rows
from synthcxr.evaluation.config import EvaluateConfig
from synthcxr.evaluation.features import appearance_extractor, features_of, judge, open_extractor, readings
from synthcxr.evaluation.image_text import ImageText, Pairs, open_image_text
from synthcxr.evaluation.resampling import units_of
from synthcxr.evaluation.sheets import Images
from synthcxr.model.classifier import Readings, load_classifier
from synthcxr.runs import derive_seed

log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Part:
    """Some records of a dataset, and all that was computed of them.

    Attributes:
        units: (n,) the patient of a real image; the prompt of a synthetic one, or itself where prompts are few.
        appearance: of the rows in `sharp`, those that aren't smaller than the size that images are compared at.
        readings: the judge's; None where there's none.
        pairs: of images and what their conditions say, by the image-text model; None where there's none.
    """

    dataset: Dataset
    name: str
    records: list[Record]
    units: np.ndarray
    features: np.ndarray
    sharp: np.ndarray
    appearance: np.ndarray
    readings: Readings | None
    pairs: Pairs | None

    def rows(self) -> Rows:
        return Rows(self.features, self.units, self.records)

    def appearances(self) -> Rows:
        return Rows(self.appearance, self.units[self.sharp], [self.records[row] for row in self.sharp])

    def images(self) -> Images:
        return Images(self.dataset, self.records, self.features)


class Reader:
    """Reads datasets into parts, all by the same extractors."""

    def __init__(self, config: EvaluateConfig):
        self.config = config
        self.judge: Extractor | None = None
        try:
            self.judge = judge(load_classifier(config.model))
        except ModelError as error:
            if config.extractor == "embedded":
                raise ModelError(f"{error}; or give another extractor (extractor=pixels)") from error
            log.warning("nobody judges what pictures show: %s", error)
        embedded = config.extractor == "embedded"
        self.extractor = self.judge if embedded else open_extractor(config.extractor)
        self.image_text = self._image_text()

    def part(self, dataset: Dataset, split: Split | None, name: str) -> Part:
        config, records = self.config, chosen(dataset, split, self.config.images, self.config.seed)
        told = self._rows(self.judge, dataset, records) if self.judge else None
        judged = None if told is None else readings(told)
        own = config.extractor == "embedded"
        features = judged.features if own else self._rows(self.extractor, dataset, records)
        sharp = np.array([row for row, record in enumerate(records) if _native(record) >= config.size], dtype=int)
        large = [records[row] for row in sharp]
        looks = self._rows(appearance_extractor(), dataset, large) if large else np.empty((0, 1))
        pairs = self._pairs(dataset, records, judged) if self.image_text else None
        return Part(dataset, name, records, _units(dataset, records), features, sharp, looks, judged, pairs)

    def _image_text(self) -> ImageText | None:
        if self.judge is None and self.config.image_text is None:
            return None  # the model's own reads what the judge saw
        try:
            return open_image_text(self.config.image_text, self.config.model)
        except ModelError as error:
            if self.config.image_text:
                raise
            log.warning("nobody compares pictures with words: %s", error)
            return None

    def _pairs(self, dataset: Dataset, records: Sequence[Record], judged: Readings | None) -> Pairs:
        model = self.image_text
        rows = judged.features if model.extractor is None else self._rows(model.extractor, dataset, records)
        prompts = [model.prompt(record.condition) for record in records]
        return Pairs(model.images(rows), model.embed(prompts), prompts)

    def _rows(self, extractor: Extractor, dataset: Dataset, records: Sequence[Record]) -> np.ndarray:
        return features_of(extractor, dataset, records, self.config.size, self.config.cache)


def chosen(dataset: Dataset, split: Split | None, most: int, seed: int) -> list[Record]:
    """At most so many records of a split, drawn at random, in the order of the manifest.

    Raises:
        DatasetError: there's none.
    """
    records = dataset.split(split) if split else dataset.records
    if not records:
        raise DatasetError(f"{shown(dataset.path)} has no images in split {split!r}; give another split, or none")
    rng = np.random.default_rng(derive_seed(seed, "images"))
    return [records[row] for row in np.sort(rng.permutation(len(records))[:most])]


def _units(dataset: Dataset, records: Sequence[Record]) -> np.ndarray:
    if dataset.info["origin"] == "real":
        return np.array([record.patient for record in records])
    return units_of(np.array([prompt_of(record) for record in records]))


def prompt_of(record: Record) -> str:
    """What a picture was asked for with; the canonical words where the dataset doesn't say."""
    return record.prompt if record.prompt is not None else to_prompt(record.condition)


def _native(record: Record) -> int:
    return min(record.native_width, record.native_height, record.width, record.height)
