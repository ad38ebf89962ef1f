"""Writing a DATASET folder that appears only when it's whole, and what an interrupted writer left; see dataset.py."""

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Unpack

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from synthcxr.data.card import card
from synthcxr.data.croissant import CROISSANT, DATASET_IMAGES, DATASET_TABLE, croissant
from synthcxr.data.dataset import Dataset
from synthcxr.data.manifest import SCHEMA_VERSION, check_manifest, counts_of, read_info
from synthcxr.data.record import SCHEMA, Origin, Record
from synthcxr.data.shard import EncodedImage, Part, Said, ShardWriter, read_part
from synthcxr.data.sums import write_sums
from synthcxr.errors import DatasetError, RunError, UserError, shown
from synthcxr.files import (
    only_writer,
    publish,
    remove,
    sha256_file,
    temporaries_of,
    temporary_of,
    write_bytes,
    write_json,
    write_text,
)

PARTS = ".parts"  # of a folder that is written: what its shards hold


def discard(output: Path, command: str) -> None:
    """Remove the dataset that `command` made at `output`, and what an interrupted writer left beside it.

    Raises:
        RunError: the output holds something else.
    """
    if output.is_dir() and any(output.iterdir()):
        if not (output / "dataset.json").is_file() or command not in read_info(output):
            raise RunError(f"{shown(output)} holds what {command} didn't make; give another output")
        remove(output)
    tidy(output)


def tidy(output: Path) -> None:
    """Remove what interrupted writers left beside `output`, which is there or not wanted.

    Raises:
        RunError: another process is writing it.
    """
    if any(_left_of(output)):
        with only_writer(output):
            for path in _left_of(output):
                remove(path)


def _left_of(output: Path) -> Iterator[Path]:
    for path in (output, output.with_name(output.name + PARTS)):
        yield from temporaries_of(path)


class DatasetWriter:
    """Writes a DATASET folder that appears under its name only when it's whole. Equal input gives equal bytes.

    with DatasetWriter(path, origin="real") as writer:
        writer.add(pixels, id="a", patient="p1", study="s1", split="train", source="mine", licence="CC0")
    dataset = writer.dataset

    Who can say in advance what each shard is made from writes shard by shard instead (`part`, `shard`), and goes on
    after any interruption where the last whole shard ended.

    Args:
        path: a folder that doesn't exist yet, or is empty.
        origin: "synthetic" images carry their marks of origin in the PNG itself.
        shard_rows: images a tar, for `add`.
        preprocessing: what was done to the pixels; kept in dataset.json and said on the card.
        extra: more entries of dataset.json.
        resume: a name (a hash) for what is written: shards that an interrupted writer of the same name left are there.
        beside: files that are written next to the folder while this writer alone may: what a killed process left
            half-written of them goes.
        shared: several processes write shards at the same time, each others; none finishes the dataset.

    Raises:
        DatasetError: the folder holds something already.
        RunError: another process is writing it.
    """

    def __init__(
        self,
        path: Path,
        origin: Origin,
        shard_rows: int = 1000,
        preprocessing: dict[str, Any] | None = None,
        extra: dict[str, Any] | None = None,
        resume: str | None = None,
        beside: Sequence[Path] = (),
        shared: bool = False,
    ) -> None:
        self.path = Path(path)
        self.origin: Origin = origin
        self.shard_rows = shard_rows
        self.preprocessing = preprocessing or {}
        self.extra = extra or {}
        self.resume = resume
        self._shared, self._beside = shared, beside
        self._folder = temporary_of(self.path, resume and resume[:16])
        self._parts = self._folder.with_name(self._folder.name + PARTS)
        self._ids: set[str] = set()
        self._keys: dict[int, str] = {}
        self._attached: dict[str, str] = {}
        self._shard: ShardWriter | None = None
        self._dataset: Dataset | None = None
        self._alone = ExitStack()

    @property
    def dataset(self) -> Dataset:
        """The dataset that was written, once the `with` block is done."""
        if self._dataset is None:
            raise RuntimeError("the dataset is there only after the with block")
        return self._dataset

    def __enter__(self) -> "DatasetWriter":
        with ExitStack() as stack:
            stack.enter_context(only_writer(self.path, self._shared))
            if self.path.exists() and (not self.path.is_dir() or any(self.path.iterdir())):
                raise DatasetError(f"{shown(self.path)} isn't empty; give another output")
            for path in self._beside:
                for half in temporaries_of(path):
                    remove(half)
            for folder in (self._folder / "shards", self._parts):
                folder.mkdir(parents=True, exist_ok=True)
            self._alone = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if self._shard is not None:
                self._shard.__exit__(kind, error, trace)
            if error is None:
                self._finish()
                publish(self._folder, self.path)
        except BaseException as failure:  # a failure to finish leaves nothing behind either
            error = failure
            raise
        finally:
            if error is None or self.resume is None or isinstance(error, UserError):
                remove(self._folder)
                remove(self._parts)
            self._alone.close()
        if error is None:
            self._dataset = Dataset.open(self.path)

    def add(self, image: np.ndarray | EncodedImage, **said: Unpack[Said]) -> Record:
        """Append one image; see ShardWriter.add.

        Raises:
            DatasetError: the id breaks its rule or was added before.
        """
        if said["id"] in self._ids:
            raise DatasetError(f"image id {said['id']!r} comes twice; ids must be unique in a dataset")
        if self._shard is None or len(self._shard) == self.shard_rows:
            if self._shard is not None:
                self._shard.__exit__(None, None, None)
            self._shard = self.shard(len(self._keys)).__enter__()
        record = self._shard.add(image, **said)
        self._ids.add(record.id)
        return record

    def part(self, number: int, key: str) -> Part | None:
        """What an interrupted writer left of a shard made from the same (`key`); it needn't be written again."""
        part = read_part(self._parts, number, key)
        if part is None or (part.sha256 and not (self._folder / "shards" / part.shard).is_file()):
            return None
        self._keys[number] = key
        return part

    def shard(self, number: int, key: str = "") -> ShardWriter:
        """A shard to be written, as a context; numbers count up from 0."""
        self._keys[number] = key
        return ShardWriter(self._folder / "shards", self._parts, number, self.origin, key)

    def attach(self, name: str, data: bytes) -> None:
        """Put a further file into the folder, such as a table of decisions; it's verified as the shards are."""
        write_bytes(self._folder / name, data)
        self._attached[name] = hashlib.sha256(data).hexdigest()

    def _finish(self) -> None:
        parts = [read_part(self._parts, number, key) for number, key in sorted(self._keys.items())]
        shards = {part.shard: part.sha256 for part in parts if part.sha256}
        for file in list(self._folder.iterdir()):
            if file.name not in ("shards", *self._attached):  # half a file, of a killed writer
                remove(file)
        for file in (self._folder / "shards").iterdir():
            if file.name not in shards:  # of an interrupted writer with more to write, or cut off
                file.unlink()
        table = pa.concat_tables([SCHEMA.empty_table(), *(part.table for part in parts)])
        check_manifest(self.path, table)
        pq.write_table(table.combine_chunks(), self._folder / "manifest.parquet", compression="zstd")
        info = {
            "schema_version": SCHEMA_VERSION,
            "origin": self.origin,
            "preprocessing": self.preprocessing,
            "counts": counts_of(table),
            "manifest_sha256": sha256_file(self._folder / "manifest.parquet"),
            "shards": shards,
            **({"attached": self._attached} if self._attached else {}),
            **self.extra,
        }
        write_json(self._folder / "dataset.json", info)
        write_text(self._folder / "README.md", card(self.path.name, info, table))
        told = croissant(self.path.name, info, table, DATASET_TABLE, DATASET_IMAGES, SCHEMA)
        write_json(self._folder / CROISSANT, told)
        write_sums(self._folder, {f"shards/{name}": digest for name, digest in shards.items()} | self._attached)
