"""Records of one or several DATASETs and splits, in one order: an audit's training, held-out or synthetic images."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path

import numpy as np

from synthcxr.data.curate.decide import Extractor
from synthcxr.data.dataset import Dataset
from synthcxr.data.record import Record, Split
from synthcxr.errors import DatasetError, shown
from synthcxr.evaluation.features import features_of, square
from synthcxr.evaluation.part import chosen
from synthcxr.evaluation.result import Input, Role
from synthcxr.runs import derive_seed


@dataclass(frozen=True, eq=False)
class Collected:
    """Records, part by part: those of one split of one dataset.

    Attributes:
        size: pixels a side that images are read at, at most.
    """

    parts: tuple[tuple[Dataset, list[Record]], ...]
    size: int

    @property
    def records(self) -> list[Record]:
        return [record for _, records in self.parts for record in records]

    @property
    def patients(self) -> np.ndarray:
        return np.array([record.patient for record in self.records])

    def pixels(self, rows: Sequence[int]) -> Iterator[np.ndarray]:
        """The images of these rows, in this order, as `features.square` gives them."""
        starts = [0, *accumulate(len(records) for _, records in self.parts)]
        for row in rows:
            part = int(np.searchsorted(starts, row, side="right")) - 1
            dataset, records = self.parts[part]
            yield square(dataset, records[row - starts[part]], self.size)

    def features(self, extractor: Extractor, cache: Path) -> np.ndarray:
        """float32 (n, d), kept part by part; see `features.features_of`."""
        return np.concatenate(
            [features_of(extractor, dataset, records, self.size, cache) for dataset, records in self.parts if records]
        )

    def inputs(self, role: Role) -> tuple[Input, ...]:
        """What was read, dataset by dataset."""
        told = {dataset.path: (dataset, []) for dataset, _ in self.parts}
        for dataset, records in self.parts:
            told[dataset.path][1].extend(records)
        return tuple(
            Input(
                role=role, name=dataset.path.name, manifest_sha256=dataset.hash, images=len(records),
                patients=len({record.patient for record in records}),
                models=tuple(sorted({record.model for record in records if record.model})),
            )
            for dataset, records in told.values()
        )  # fmt: skip


def collect(
    name: str, folders: Sequence[Path], splits: Sequence[Split] | None, size: int, seed: int,
    origin: str | None = None, most: int | None = None,
) -> Collected:  # fmt: skip
    """Records of some splits (None: of all) of all folders; `most` of them all together, drawn at random.

    Raises:
        DatasetError: a folder is no dataset, holds images of another origin or none of the split, or comes twice.
    """
    if len({folder.resolve() for folder in folders}) < len(folders):
        raise DatasetError(f"{name} names a dataset twice; give each once")
    datasets = [Dataset.open(folder) for folder in folders]
    for dataset in datasets:
        if origin and dataset.info["origin"] != origin:
            held = dataset.info["origin"]
            raise DatasetError(f"{name} = {shown(dataset.path)} holds {held} images; give a {origin} dataset")
    of = [(dataset, split) for dataset in datasets for split in splits or (None,)]
    records = [chosen(dataset, split, len(dataset), seed) for dataset, split in of]
    total = sum(map(len, records))
    if most is not None and most < total:
        kept = np.zeros(total, dtype=bool)
        kept[np.random.default_rng(derive_seed(seed, "images")).permutation(total)[:most]] = True
        shares = np.split(kept, np.cumsum([len(part) for part in records])[:-1])
        records = [
            [record for record, keep in zip(part, share, strict=True) if keep]
            for part, share in zip(records, shares, strict=True)
        ]
    return Collected(tuple((dataset, part) for (dataset, _), part in zip(of, records, strict=True)), size)
