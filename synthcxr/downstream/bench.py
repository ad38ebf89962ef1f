"""What all cells of an experiment share: pixels and labels of real and synthetic images, and who's in which split."""

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256

import numpy as np

from synthcxr.data.corpus import Corpus, load_corpus
from synthcxr.data.dataset import Dataset
from synthcxr.data.record import Record
from synthcxr.downstream.config import DownstreamConfig
from synthcxr.downstream.labels import is_finding, testable, values_of
from synthcxr.downstream.subsets import planted
from synthcxr.errors import ConfigError, DatasetError, shown
from synthcxr.evaluation.judged import people
from synthcxr.evaluation.result import Input


@dataclass(frozen=True, eq=False)
class Pool:
    """Images and what is known of them.

    Attributes:
        pixels: uint8 (n, size, size).
        labels: float32 (n, labels), NaN where it isn't known.
        records: n of them.
    """

    pixels: np.ndarray
    labels: np.ndarray
    records: Sequence[Record]

    @property
    def patients(self) -> np.ndarray:
        """(n,) the patient of each image."""
        return np.array([record.patient for record in self.records])

    def take(self, rows: np.ndarray) -> "Pool":
        """Some of the images; of a memory map, they are read into memory."""
        return Pool(self.pixels[rows], self.labels[rows], [self.records[row] for row in rows])

    def __len__(self) -> int:
        return len(self.records)


@dataclass(frozen=True, eq=False)
class Bench:
    """The images of an experiment: real ones by split, synthetic ones by the name of their dataset.

    `labels` are the columns of each pool; `hash` is of all images, labels and splits; `inputs` are the datasets.
    """

    labels: tuple[str, ...]
    train: Pool
    validate: Pool
    test: Pool
    synthetic: Mapping[str, Pool]
    hash: str
    inputs: tuple[Input, ...]

    @property
    def splits(self) -> Mapping[str, Pool]:
        """The real images by the name of their split."""
        return {"train": self.train, "validate": self.validate, "test": self.test}


def open_bench(config: DownstreamConfig) -> Bench:
    """Read the datasets; the pixels are written into `config.cache` once.

    Raises:
        DatasetError: a split is empty, or a dataset's origin is not what it's given as.
        ConfigError: there are no labels to tell, or fewer synthetic images than the multiples ask for.
        UserError: a shortcut that can't be planted.
    """
    real = [_opened(str(path), "real") for path in config.real]
    made = {name: _opened(str(path), "synthetic") for name, path in config.synthetic.items()}
    corpora = {split: _corpus(config, real, split) for split in ("train", "validate", "test")}
    labels = _labels(config, corpora["test"].records)
    pools = {split: _pool(corpus, labels) for split, corpus in corpora.items()}
    if config.shortcut:
        for split in ("train", "validate"):  # who chooses a model has no other patients than those with the shortcut
            pools[split] = _planted(config, pools[split])
    if not testable(pools["validate"].records, 1, tuple(filter(is_finding, labels))):
        raise ConfigError("no validation image has a finding that another lacks; prepare with a larger holdout")
    used = {name for arm in config.arms if (name := config.set_of(arm))}
    synthetic = {name: _pool(_corpus(config, [made[name]], "train"), labels) for name in sorted(used)}
    for name, pool in synthetic.items():
        if (asked := synthetic_count(config, pools["train"], max(config.multiples))) > len(pool):
            raise ConfigError(
                f"multiples = {max(config.multiples):g}: {shown(config.synthetic[name])} has {len(pool)} training "
                f"images, fewer than {asked}; synthesize more, or lower the multiple to {len(pool) / asked:.2g} of it"
            )
    parts = [*pools.values(), *synthetic.values()]
    told = sha256("".join(labels).encode())
    for pool in parts:
        told.update(pool.labels.tobytes() + "".join(record.sha256 for record in pool.records).encode())
    inputs = [_input(path.name, dataset) for path, dataset in zip(config.real, real, strict=True)]
    inputs += [_input(name, made[name]) for name in synthetic]
    return Bench(labels, pools["train"], pools["validate"], pools["test"], synthetic, told.hexdigest(), tuple(inputs))


def synthetic_count(config: DownstreamConfig, train: Pool, multiple: float) -> int:
    """How many synthetic images a multiple stands for."""
    return max(1, round(multiple * len(train)))


def label_table(pool: Pool, labels: Sequence[str]) -> bytes:
    """CSV of what predictions are compared with: a row an image, in the order of the predictions; blank: unknown."""
    told = io.StringIO()
    writer = csv.writer(told, lineterminator="\n")
    writer.writerow(("id", "patient", "people", *labels))
    for record, group, values in zip(pool.records, people(pool.records), pool.labels, strict=True):
        writer.writerow((record.id, record.patient, group, *("" if np.isnan(v) else int(v) for v in values)))
    return told.getvalue().encode()


def _opened(path: str, origin: str) -> Dataset:
    dataset = Dataset.open(path)
    if dataset.info["origin"] != origin:
        raise DatasetError(f"{shown(path)} is given as {origin} and holds {dataset.info['origin']} images")
    return dataset


def _input(name: str, dataset: Dataset) -> Input:
    models = tuple(sorted({record.model for record in dataset.records if record.model}))
    return Input(
        role=dataset.info["origin"], name=name, manifest_sha256=dataset.hash, images=len(dataset),
        patients=len({record.patient for record in dataset.records}), models=models,
    )  # fmt: skip


def _corpus(config: DownstreamConfig, datasets: Sequence[Dataset], split: str) -> Corpus:
    return load_corpus(datasets, split, config.size, max(map(len, datasets)), config.cache)


def _labels(config: DownstreamConfig, test: Sequence[Record]) -> tuple[str, ...]:
    """Those that are asked for, each with enough test images; a shortcut's finding alone where there's one."""
    fit = testable(test, config.least, (config.shortcut.finding,) if config.shortcut else config.labels)
    if config.shortcut and fit and not is_finding(config.shortcut.finding):
        raise ConfigError(f"shortcut.finding = {config.shortcut.finding!r} must be a finding")
    if missing := [label for label in config.labels if label not in fit and not config.shortcut]:
        raise ConfigError(f"labels: {missing[0]} has fewer than {config.least} test images with it or without it")
    if not any(map(is_finding, fit)):
        raise ConfigError(
            f"no finding has {config.least} test images with it and as many without it; lower `least`, or prepare more"
        )
    return fit


def _pool(corpus: Corpus, labels: Sequence[str]) -> Pool:
    return Pool(corpus.pixels, values_of(corpus.records, labels), corpus.records)


def _planted(config: DownstreamConfig, pool: Pool) -> Pool:
    shortcut = config.shortcut
    finding, confounder = values_of(pool.records, (shortcut.finding, shortcut.confounder)).T
    return pool.take(planted(finding, confounder, shortcut.correlation, config.seed))
