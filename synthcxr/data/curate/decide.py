"""The steps of a curation, one after another: duplicates, pruning, balance. Nothing is written."""

import logging
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from tqdm import tqdm

from synthcxr.data.curate.balance import balance
from synthcxr.data.curate.config import CurateConfig
from synthcxr.data.curate.duplicates import choose, crossing, exact_pairs
from synthcxr.data.curate.fingerprint import Fingerprints, Scanner
from synthcxr.data.curate.ledger import Decision
from synthcxr.data.curate.near import near_pairs
from synthcxr.data.curate.prune import prune
from synthcxr.data.curate.summary import Summary, summarise
from synthcxr.data.dataset import Dataset
from synthcxr.data.record import Record
from synthcxr.errors import DatasetError, shown

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Extractor:
    """Features of images for pruning.

    Attributes:
        name: which features they are; another name is another curation.
        read: images, uint8 or uint16 (h, w), to features (n, d) in the same order.
    """

    name: str
    read: Callable[[Iterable[np.ndarray]], np.ndarray]


@dataclass(frozen=True)
class Curation:
    """What is to become of each image.

    Attributes:
        images: each with the dataset it's in.
        decisions: as many, in the same order.
    """

    images: list[tuple[Dataset, Record]]
    decisions: list[Decision]
    summary: Summary


def open_inputs(config: CurateConfig) -> list[Dataset]:
    """The DATASET folders, checked to make one together.

    Raises:
        DatasetError: one is no dataset, or two contradict each other.
    """
    datasets = [Dataset.open(path) for path in config.data]
    origins = sorted({dataset.info["origin"] for dataset in datasets})
    if len(origins) > 1:
        raise DatasetError(f"data: {' and '.join(origins)} datasets don't become one; curate them apart")
    owners: dict[str, Dataset] = {}
    splits: dict[str, tuple[str, Dataset]] = {}
    for dataset in datasets:
        for record in dataset.records:
            if owners.setdefault(record.id, dataset) is not dataset:
                raise DatasetError(
                    f"image id {record.id!r} is in {shown(owners[record.id].path)} and in {shown(dataset.path)};"
                    " give one of them, or prepare one with other ids"
                )
            split, where = splits.setdefault(record.patient, (record.split, dataset))
            if split != record.split:
                raise DatasetError(
                    f"patient {record.patient!r} is in {split} of {shown(where.path)} and in {record.split} of"
                    f" {shown(dataset.path)}; prepare both with the same holdout and seed"
                )
    return datasets


def decide(config: CurateConfig, datasets: Sequence[Dataset], extract: Extractor | None = None) -> Curation:
    """Decide what stays, and how much each image weighs.

    Args:
        extract: features that pruning compares; None: the pixels of small pictures.
    Raises:
        DatasetError: an image can't be read, or columns can't be made independent.
        UserError: pruning without scikit-learn.
    """
    images = [(dataset, record) for dataset in datasets for record in dataset.records]
    records = [record for _, record in images]
    decisions = [Decision(r.id, r.split, r.patient, r.source) for r in records]
    if config.exact or config.near or config.prune:
        prints, features = _scan(images, extract if config.prune else None)
        for decision, digest, hashes in zip(decisions, prints.pixels, prints.hashes, strict=True):
            decision.pixels_sha256, decision.perceptual_hash = digest, f"{hashes[0]:016x}"
        _drop_duplicates(config, images, prints, decisions)
        if config.prune:
            _prune(config, records, prints.features if features is None else features, decisions)
    if config.balance:
        _balance(config, records, decisions)
    return Curation(images, decisions, summarise(records, decisions, config))


def _scan(
    images: Sequence[tuple[Dataset, Record]], extract: Extractor | None
) -> tuple[Fingerprints, np.ndarray | None]:
    """One pass over all pixels."""

    def pixels() -> Iterator[np.ndarray]:
        for dataset, record in tqdm(images, "scan", file=sys.stderr, unit="image", disable=None):
            yield dataset.read(record)

    scanner, features = Scanner(), None
    seen = scanner.watch(pixels())
    if extract is not None and images:
        features = extract.read(seen)
    deque(seen, maxlen=0)
    return scanner.fingerprints(), features


def _drop_duplicates(
    config: CurateConfig,
    images: Sequence[tuple[Dataset, Record]],
    prints: Fingerprints,
    decisions: Sequence[Decision],
) -> None:
    pairs = exact_pairs(prints) if config.exact else []
    if config.near:
        pairs += near_pairs(prints, lambda index: images[index][0].read(images[index][1]), config.near)
    records = [record for _, record in images]
    for duplicate in choose(records, pairs):
        decision, record, copy = decisions[duplicate.index], records[duplicate.index], records[duplicate.of]
        decision.drop(duplicate.reason)
        decision.duplicate_of = copy.id
        decision.duplicate_bits, decision.duplicate_similarity = duplicate.pair.distance, duplicate.pair.similarity
        decision.duplicate_crosses = crossing(record, copy)
        decision.duplicate_labels_differ = record.present != copy.present
        if decision.duplicate_crosses:
            log.warning("%s (%s): %s", record.id, record.split, decision.why())


def _staying(config: CurateConfig, records: Sequence[Record], decisions: Sequence[Decision]) -> np.ndarray:
    """Indices of what is still kept of the splits that are pruned and balanced."""
    return np.flatnonzero([d.kept and r.split in config.splits for d, r in zip(decisions, records, strict=True)])


def _prune(
    config: CurateConfig, records: Sequence[Record], features: np.ndarray, decisions: Sequence[Decision]
) -> None:
    places = _staying(config, records, decisions)
    pruned = prune([records[place] for place in places], features[places], config.prune, config.seed)
    for row, place in enumerate(places):
        decision = decisions[place]
        decision.cluster, decision.spacing = int(pruned.cluster[row]), float(pruned.spacing[row])
        decision.rare = pruned.rare[row].value if pruned.rare[row] else None
        decision.stand_in = records[places[pruned.stand_in[row]]].id
        decision.weight = float(pruned.weight[row])
        if pruned.verdict[row] != "kept":
            decision.drop(pruned.verdict[row])


def _balance(config: CurateConfig, records: Sequence[Record], decisions: Sequence[Decision]) -> None:
    places = _staying(config, records, decisions)
    before = np.array([decisions[place].weight for place in places], dtype=np.float64)
    rare = np.array([decisions[place].rare is not None for place in places], dtype=bool)
    after = balance([records[place] for place in places], before, rare, config.balance, config.seed)
    for row, place in enumerate(places):
        decisions[place].balance_factor = float(after[row] / before[row])
        decisions[place].weight = float(after[row])
        if after[row] == 0:
            decisions[place].drop("balance")
