"""The DATASET folder: the one form that images take between any two commands, real and synthetic alike.

manifest.parquet    one row an image (record.SCHEMA)
shards/NNNNN.tar    WebDataset: <id>.png and <id>.json; the manifest's offset gives random access
dataset.json        schema version, preprocessing, counts, hashes
README.md           dataset card
"""

import hashlib
import io
import re
import tarfile
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from synthcxr.conditions import Condition
from synthcxr.data.manifest import SCHEMA_VERSION, card, check_manifest, counts_of, read_info
from synthcxr.data.record import SCHEMA, SPLITS, Origin, Record, Split, records_of
from synthcxr.errors import DatasetError, did_you_mean, shown
from synthcxr.images import encode_png, read_image
from synthcxr.runs import atomic_path, sha256_file, write_json, write_text

BLOCK = 512


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
        """Open a folder, checking its form and that no patient is in two splits. Images aren't read: see `verify`.

        Raises:
            DatasetError: no dataset, one of another schema version, or one that contradicts itself.
        """
        path = Path(path)
        info = read_info(path)
        try:
            table = pq.read_table(path / "manifest.parquet")
            table = table.select(SCHEMA.names).cast(SCHEMA)
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

    def verify(self) -> list[str]:
        """Read everything and compare it with its hashes. One line a problem; an empty list for a whole dataset."""
        problems = []
        if self.hash != self.info["manifest_sha256"]:
            problems.append("manifest.parquet: sha256 differs from dataset.json")
        shards: dict[str, str] = self.info["shards"]
        for name in sorted(set(self.table.column("shard").to_pylist()) | set(shards)):
            path = self.path / "shards" / name
            if not path.is_file():
                problems.append(f"shards/{name}: missing")
            elif name not in shards:
                problems.append(f"shards/{name}: not listed in dataset.json")
            elif sha256_file(path) != shards[name]:
                problems.append(f"shards/{name}: sha256 differs from dataset.json")
        for record in self.records:
            try:
                data = self.read_bytes(record)
            except DatasetError as error:
                problems.append(f"{record.id}: {error}")
                continue
            if hashlib.sha256(data).hexdigest() != record.sha256:
                problems.append(f"{record.id}: sha256 of the image differs from the manifest")
        return problems


class DatasetWriter:
    """Writes a DATASET folder that appears under its name only when it's whole. Equal input gives equal bytes.

    with DatasetWriter(path, origin="real") as writer:
        writer.add(pixels, id="a", patient="p1", study="s1", split="train", source="mine", licence="CC0")
    dataset = writer.dataset

    Args:
        path: a folder that doesn't exist yet, or is empty.
        origin: "synthetic" images carry their marks of origin in the PNG itself.
        shard_rows: images a tar.
        preprocessing: what was done to the pixels; kept in dataset.json and said on the card.
        extra: more entries of dataset.json.

    Raises:
        DatasetError: the folder holds something already.
    """

    def __init__(
        self,
        path: Path,
        origin: Origin,
        shard_rows: int = 1000,
        preprocessing: dict[str, Any] | None = None,
        extra: dict[str, Any] | None = None,
    ) -> None:
        self.path = Path(path)
        self.origin: Origin = origin
        self.shard_rows = shard_rows
        self.preprocessing = preprocessing or {}
        self.extra = extra or {}
        self._rows: list[dict[str, Any]] = []
        self._ids: set[str] = set()
        self._tar: tarfile.TarFile | None = None
        self._dataset: Dataset | None = None

    @property
    def dataset(self) -> Dataset:
        """The dataset that was written, once the `with` block is done."""
        if self._dataset is None:
            raise RuntimeError("the dataset is there only after the with block")
        return self._dataset

    def __enter__(self) -> "DatasetWriter":
        if self.path.exists() and (not self.path.is_dir() or any(self.path.iterdir())):
            raise DatasetError(f"{shown(self.path)} isn't empty; give another output")
        self._atomic = atomic_path(self.path)
        self._folder = self._atomic.__enter__()
        (self._folder / "shards").mkdir(parents=True)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self._close_shard()
            if error is None:
                self._finish()
        except BaseException as failure:  # a failure to finish leaves nothing behind either
            self._atomic.__exit__(type(failure), failure, failure.__traceback__)
            raise
        self._atomic.__exit__(kind, error, trace)
        if error is None:
            self._dataset = Dataset.open(self.path)

    def add(
        self,
        pixels: np.ndarray,
        *,
        id: str,
        patient: str,
        study: str,
        split: Split,
        source: str,
        licence: str,
        condition: Condition | None = None,
        native_size: tuple[int, int] | None = None,
        report: str | None = None,
        prompt: str | None = None,
        seed: int | None = None,
        model: str | None = None,
        sampler: str | None = None,
        screen: str | None = None,
    ) -> Record:
        """Append one image.

        Args:
            pixels: uint8 or uint16 (height, width).
            id: letters, digits, - and _ (WebDataset cuts names at dots); new.
            native_size: (width, height) of the file that was read; None for that of `pixels`.
            (the others): see Record.

        Raises:
            DatasetError: the id breaks its rule or was added before.
        """
        if id in self._ids:
            raise DatasetError(f"image id {id!r} comes twice; ids must be unique in a dataset")
        synthetic = {"prompt": prompt, "seed": seed, "model": model, "sampler": sampler}
        data = encode_png(pixels, {"id": id, **synthetic} if self.origin == "synthetic" else None)
        height, width = pixels.shape
        native_width, native_height = native_size or (width, height)
        shard, offset = self._next_offset()
        record = Record(
            id=_checked_id(id), shard=shard, offset=offset, size=len(data), sha256=hashlib.sha256(data).hexdigest(),
            width=width, height=height, bits=8 * pixels.dtype.itemsize,
            native_width=native_width, native_height=native_height,
            patient=patient, study=study, split=split, origin=self.origin, source=source, licence=licence,
            condition=condition or Condition(), report=report, screen=screen, **synthetic,
        )  # fmt: skip
        sidecar = record.model_dump_json(exclude={"shard", "offset", "size"}, exclude_none=True)
        self._append(f"{id}.png", data)
        self._append(f"{id}.json", sidecar.encode())
        self._ids.add(id)
        self._rows.append(record.to_row())
        return record

    def _next_offset(self) -> tuple[str, int]:
        """Shard and byte that the next image comes to lie at."""
        name = f"{len(self._rows) // self.shard_rows:05d}.tar"
        if self._tar is None or len(self._rows) % self.shard_rows == 0:
            self._close_shard()
            # ustar: a header is one block whatever the name, so that the data begin one block on.
            self._tar = tarfile.open(self._folder / "shards" / name, "w", format=tarfile.USTAR_FORMAT)
        return name, self._tar.offset + BLOCK

    def _append(self, name: str, data: bytes) -> None:
        member = tarfile.TarInfo(name)  # mtime, uid and gid are 0: the same bytes on any day and machine
        member.size = len(data)
        self._tar.addfile(member, io.BytesIO(data))

    def _close_shard(self) -> None:
        if self._tar is not None:
            self._tar.close()
            self._tar = None

    def _finish(self) -> None:
        columns = {name: [row[name] for row in self._rows] for name in SCHEMA.names}
        table = pa.table(columns, schema=SCHEMA)
        check_manifest(self.path, table)
        pq.write_table(table, self._folder / "manifest.parquet", compression="zstd")
        shards = sorted((self._folder / "shards").iterdir())
        info = {
            "schema_version": SCHEMA_VERSION,
            "origin": self.origin,
            "preprocessing": self.preprocessing,
            "counts": counts_of(table),
            "manifest_sha256": sha256_file(self._folder / "manifest.parquet"),
            "shards": {shard.name: sha256_file(shard) for shard in shards},
            **self.extra,
        }
        write_json(self._folder / "dataset.json", info)
        write_text(self._folder / "README.md", card(self.path.name, info, table))


def _checked_id(image_id: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9_-]{1,90}", image_id):
        raise DatasetError(f"image id {image_id!r} must be 1 to 90 letters, digits, - or _")
    return image_id
