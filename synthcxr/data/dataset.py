"""The DATASET folder: the one form that images take between any two commands, real and synthetic alike.

manifest.parquet    one row an image (record.SCHEMA)
shards/NNNNN.tar    WebDataset: <id>.png and <id>.json; the manifest's offset gives random access
dataset.json        schema version, preprocessing, counts, hashes
README.md           dataset card
croissant.json      the same for machines
(others)            what a command attached
SHA256SUMS          of all of these: see verify.py
"""

import logging
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from synthcxr.data.manifest import check_manifest, in_schema, read_info
from synthcxr.data.record import SPLITS, Record, records_of
from synthcxr.errors import DatasetError, RunError, did_you_mean, shown
from synthcxr.files import sha256_file
from synthcxr.images import read_image

log = logging.getLogger(__name__)


class Dataset:
    """A DATASET folder, opened for reading. Holds no open file, so it may be pickled and forked.

    Attributes:
        path: the folder.
        info: what dataset.json says.
        table: the manifest, one row an image, in the order of writing.
    """

    def __init__(self, path: Path, info: dict[str, Any], table: pa.Table) -> None:
        self.path = path
        self.info = info
        self.table = table

    @classmethod
    def open(cls, path: Path) -> "Dataset":
        """Open a folder, checking its form and that no patient is in two splits. Images aren't read: see verify.py.

        Raises:
            DatasetError: no dataset, one of another schema version, or one that contradicts itself.
        """
        path = Path(path)
        info = read_info(path)
        try:
            table = in_schema(pq.read_table(path / "manifest.parquet"))
        except (OSError, pa.ArrowException, KeyError) as error:
            raise DatasetError(
                f"{shown(path / 'manifest.parquet')} must be the manifest of a dataset ({error})"
            ) from error
        check_manifest(path, table)
        return cls(path, info, table)

    def __len__(self) -> int:
        return self.table.num_rows

    def __repr__(self) -> str:
        return f"Dataset({str(self.path)!r}, {len(self)} images)"

    @cached_property
    def records(self) -> list[Record]:
        """All records, in the order of the manifest."""
        return list(records_of(self.table))

    @cached_property
    def hash(self) -> str:
        """sha256 of the manifest, which holds the sha256 of each image: equal for equal datasets."""
        return sha256_file(self.path / "manifest.parquet")

    def split(self, name: str) -> list[Record]:
        """The records of one split.

        Raises:
            DatasetError: there's no split of that name.
        """
        if name not in SPLITS:
            raise DatasetError(f"split = {name!r} must be one of {', '.join(SPLITS)}{did_you_mean(name, SPLITS)}")
        return [record for record in self.records if record.split == name]

    def read(self, record: Record) -> np.ndarray:
        """Pixels of one image: uint8 or uint16 (height, width).

        Raises:
            DatasetError: its shard is missing or cut off.
            ImageError: the bytes aren't an image.
        """
        return read_image(self.read_bytes(record), name=f"{shown(self.path / 'shards' / record.shard)}:{record.id}.png")

    def read_bytes(self, record: Record) -> bytes:
        """The PNG file of one image, as it was written."""
        shard = self.path / "shards" / record.shard
        try:
            with open(shard, "rb", buffering=0) as file:
                file.seek(record.offset)
                data = file.read(record.size)
        except OSError as error:
            raise DatasetError(
                f"{shown(shard)} can't be read ({error.strerror}); restore it or prepare again"
            ) from error
        if len(data) != record.size:
            raise DatasetError(f"{shown(shard)} ends before image {record.id}; restore it or prepare again")
        return data


def already_made(output: Path, command: str, resolved: Mapping[str, Any], identity: str, other: str) -> Dataset | None:
    """The dataset at `output` where this very command made it; None where there's nothing yet.

    Args:
        command: prepare or curate, which is also the entry of dataset.json that holds the resolved config.
        resolved: today's.
        identity: what dataset.json calls config_hash.
        other: what must have changed where the config didn't.
    Raises:
        RunError: the output holds something else, or a dataset made with another config.
    """
    if not output.exists() or (output.is_dir() and not any(output.iterdir())):
        return None
    if not (output / "dataset.json").is_file():
        raise RunError(f"{shown(output)} isn't empty and holds no dataset; give another output")
    dataset = Dataset.open(output)
    if dataset.info.get("config_hash") == identity:
        log.info("%s is already %sd", shown(output), command)
        return dataset
    before = dataset.info.get(command) or {}
    changed = [key for key, now in resolved.items() if before.get(key) != now]
    what = f"{changed[0]} {before.get(changed[0])}, now {resolved[changed[0]]}" if changed else other
    raise RunError(f"{shown(output)} holds a dataset made with another config ({what}); give another output")
