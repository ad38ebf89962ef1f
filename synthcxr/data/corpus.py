"""DATASETs as one array of pixels at one resolution: what training and the calibration of screens read from."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from hashlib import sha256
from pathlib import Path

import numpy as np
from tqdm import tqdm

from synthcxr.data.dataset import Dataset
from synthcxr.data.record import Record
from synthcxr.errors import DatasetError
from synthcxr.files import atomic_path
from synthcxr.images import from_float, to_float, to_square


@dataclass(frozen=True)
class Corpus:
    """Images of one split.

    Attributes:
        pixels: uint8 (n, resolution, resolution), a memory map or what reads like one.
        records: n of them.
        native: (n,) pixels of the smaller side of the file that was read, at most the resolution.
        hash: of the images and the resolution.
    """

    pixels: "np.ndarray | ShardPixels"
    records: list[Record]
    native: np.ndarray
    hash: str

    @property
    def sharp(self) -> np.ndarray:
        """Indices of images that are native at the resolution or above: only they may teach detail."""
        return np.flatnonzero(self.native >= self.pixels.shape[-1])

    @property
    def ill(self) -> np.ndarray:
        """Indices of images with a finding."""
        return np.flatnonzero([bool(record.present) for record in self.records])


class ShardPixels:
    """Pixels read from the shards each time they are asked for: (n, resolution, resolution) that fit no memory or disk.

    Indexed like the array by one image, or by an array of images and then within them.
    """

    def __init__(self, chosen: Sequence[tuple[Dataset, Record]], resolution: int):
        self._chosen = chosen
        self.shape = (len(chosen), resolution, resolution)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, key: int | np.ndarray | tuple) -> np.ndarray:
        first, *rest = key if isinstance(key, tuple) else (key,)
        if np.ndim(first) == 0:
            return _read(self._chosen[int(first)], self.shape[-1])[tuple(rest)]
        return np.stack([_read(self._chosen[int(i)], self.shape[-1]) for i in first])[(slice(None), *rest)]


def load_corpus(
    datasets: Sequence[Dataset], split: str, resolution: int, per_patient: int, cache: Path | None
) -> Corpus:
    """Read one split of all datasets, with at most `per_patient` images of a patient, the sharpest first.

    The pixels are written to `cache` once, and a later call maps the same file; with None, each is read from its
    shard whenever it's asked for.

    Raises:
        DatasetError: the split is empty.
    """
    chosen, digest = corpus_images(datasets, split, resolution, per_patient)
    records = [record for _, record in chosen]
    native = np.array([_native(record, resolution) for record in records])
    if cache is None:
        return Corpus(ShardPixels(chosen, resolution), records, native, digest)
    path = cache / f"pixels-{split}-{digest[:16]}.npy"
    if not path.exists():
        _write_pixels(path, chosen, resolution)
    return Corpus(np.load(path, mmap_mode="r"), records, native, digest)


def corpus_images(
    datasets: Sequence[Dataset], split: str, resolution: int, per_patient: int
) -> tuple[list[tuple[Dataset, Record]], str]:
    """Which images `load_corpus` reads, and their hash: that of the corpus. No pixel is read.

    Raises:
        DatasetError: the split is empty.
    """
    chosen: list[tuple[Dataset, Record]] = []
    for dataset in datasets:
        patients: dict[str, list[Record]] = {}
        for record in dataset.split(split):
            patients.setdefault(record.patient, []).append(record)
        for records in patients.values():
            # By hash, not by date: a series' first images would be healthier than its later ones.
            records.sort(key=lambda record: (-_native(record, resolution), sha256(record.id.encode()).digest()))
            chosen += [(dataset, record) for record in records[:per_patient]]
    if not chosen:
        names = ", ".join(str(dataset.path) for dataset in datasets)
        raise DatasetError(f"{names}: no image in split {split!r}; prepare with a larger dataset or another holdout")
    digest = sha256("".join(record.sha256 for _, record in chosen).encode() + bytes(str(resolution), "ascii"))
    return chosen, digest.hexdigest()


def _native(record: Record, resolution: int) -> int:
    return min(record.native_width, record.native_height, resolution)


def _read(item: tuple[Dataset, Record], resolution: int) -> np.ndarray:
    dataset, record = item
    return from_float(to_square(to_float(dataset.read(record)), resolution))


def _write_pixels(path: Path, chosen: list[tuple[Dataset, Record]], resolution: int) -> None:
    with atomic_path(path) as temporary:
        shape = (len(chosen), resolution, resolution)
        pixels = np.lib.format.open_memmap(temporary, mode="w+", dtype=np.uint8, shape=shape)
        with ThreadPoolExecutor(4) as pool:
            for index, image in enumerate(
                tqdm(pool.map(partial(_read, resolution=resolution), chosen), "pixels", len(chosen))
            ):
                pixels[index] = image
        pixels.flush()
