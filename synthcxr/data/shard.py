"""One shard of a dataset: a tar of images and its part of the manifest. Both are there whole or not at all."""

import hashlib
import io
import json
import re
import tarfile
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, NotRequired, TypedDict, Unpack

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from synthcxr.conditions import Condition
from synthcxr.data.record import ID_PATTERN, SCHEMA, Origin, Record, Split
from synthcxr.errors import DatasetError
from synthcxr.files import atomic_path, sha256_file, write_json
from synthcxr.images import encode_png

BLOCK = 512
MAX_SIDECAR = 1 << 24  # bytes; a damaged header may claim any size


@dataclass(frozen=True)
class EncodedImage:
    """A PNG file and what it holds: width and height in pixels, 8 or 16 bits a pixel."""

    data: bytes
    width: int
    height: int
    bits: int


@dataclass(frozen=True)
class Part:
    """What a finished shard left: its rows, the sha256 of its tar, and notes of the one who wrote it."""

    table: pa.Table
    shard: str
    sha256: str | None
    notes: Sequence[Any]


class Said(TypedDict):
    """What is said of an image when it's added, by keyword; see Record.

    `id` is letters, digits, - and _ (WebDataset cuts names at dots); `native_size` the (width, height) of the file that
    was read, None for that of the image.
    """

    id: str
    patient: str
    study: str
    split: Split
    source: str
    licence: str
    condition: NotRequired[Condition]
    native_size: NotRequired[tuple[int, int] | None]
    report: NotRequired[str | None]
    prompt: NotRequired[str | None]
    seed: NotRequired[int | None]
    model: NotRequired[str | None]
    sampler: NotRequired[str | None]
    screen: NotRequired[str | None]


class ShardWriter:
    """Writes shard `number` into `shards`, and its part of the manifest into `parts`; both when the block ends well.

    Args:
        key: what the shard is made from; `read_part` gives a part back only for the same key.
    """

    def __init__(self, shards: Path, parts: Path, number: int, origin: Origin, key: str = "") -> None:
        self.origin, self.key = origin, key
        self.name = _name(number)
        self._path, self._parts = shards / self.name, parts
        self._rows: list[dict[str, Any]] = []
        self._notes: list[Any] = []

    def __len__(self) -> int:
        return len(self._rows)

    def __enter__(self) -> "ShardWriter":
        # Else an interruption could leave another tar beside what was said of the old one.
        (self._parts / f"{self.name}.json").unlink(missing_ok=True)
        with ExitStack() as stack:
            temporary = stack.enter_context(atomic_path(self._path))
            # ustar: a header is one block whatever the name, so that the data begin one block on.
            self._tar = stack.enter_context(tarfile.open(temporary, "w", format=tarfile.USTAR_FORMAT))
            self._open = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._open.__exit__(kind, error, trace)  # a tar that can't be closed, on a full disk, isn't published
        if error is None:
            self._finish()

    def note(self, value: Any) -> None:
        """Keep something that JSON can hold beside the rows: what was left out of the shard, and why."""
        self._notes.append(value)

    def add(self, image: np.ndarray | EncodedImage, **said: Unpack[Said]) -> Record:
        """Append one image.

        Args:
            image: uint8 or uint16 (height, width); or, of a real image, its PNG.

        Raises:
            DatasetError: the id breaks its rule.
        """
        if not re.fullmatch(ID_PATTERN, said["id"]):
            raise DatasetError(f"image id {said['id']!r} must be 1 to 90 letters, digits, - or _")
        if isinstance(image, np.ndarray):
            origin = {name: said.get(name) for name in ("id", "prompt", "seed", "model", "sampler")}
            data = encode_png(image, origin if self.origin == "synthetic" else None)
            image = EncodedImage(data, image.shape[1], image.shape[0], 8 * image.dtype.itemsize)
        elif self.origin == "synthetic":
            raise ValueError("a synthetic image is added as pixels, so that it gets its marks")
        native_width, native_height = said.pop("native_size", None) or (image.width, image.height)
        record = Record(
            shard=self.name, offset=self._tar.offset + BLOCK, size=len(image.data),
            sha256=hashlib.sha256(image.data).hexdigest(), width=image.width, height=image.height, bits=image.bits,
            native_width=native_width, native_height=native_height, origin=self.origin, **said,
        )  # fmt: skip
        return self._put(record, image.data)

    def copy(self, record: Record, data: bytes, weight: float) -> Record:
        """Append an image of another dataset: its PNG as it is, marks and all, and its record but for the weight.

        Raises:
            DatasetError: the bytes aren't those that the record tells of.
        """
        if record.origin != self.origin:
            raise ValueError(f"image {record.id} is {record.origin}; the shard holds {self.origin} ones")
        if hashlib.sha256(data).hexdigest() != record.sha256:
            raise DatasetError(
                f"image {record.id}: sha256 differs from the manifest; restore its shard or prepare again"
            )
        place = {"shard": self.name, "offset": self._tar.offset + BLOCK, "size": len(data)}
        return self._put(record.model_copy(update={**place, "weight": weight}), data)

    def _put(self, record: Record, data: bytes) -> Record:
        append(self._tar, f"{record.id}.png", data)
        append(self._tar, f"{record.id}.json", record.sidecar().encode())
        self._rows.append(record.to_row())
        return record

    def _finish(self) -> None:
        """The part is written after the tar, its JSON last: where that is, all is."""
        if not self._rows:
            self._path.unlink()
        columns = {name: [row[name] for row in self._rows] for name in SCHEMA.names}
        with atomic_path(self._parts / f"{self.name}.parquet") as temporary:
            pq.write_table(pa.table(columns, schema=SCHEMA), temporary)
        digest = sha256_file(self._path) if self._rows else None
        write_json(self._parts / f"{self.name}.json", {"key": self.key, "sha256": digest, "notes": self._notes})


def append(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    """Add a file to a tar: the same bytes on any day and machine."""
    member = tarfile.TarInfo(name)  # mtime, uid and gid are 0
    member.size = len(data)
    tar.addfile(member, io.BytesIO(data))


def read_sidecar(shards: Path, record: Record) -> bytes:
    """The JSON that lies behind an image in its shard.

    Raises:
        DatasetError: the shard has something else there.
    """
    name = f"{record.id}.json"
    with open(shards / record.shard, "rb") as file:
        file.seek(record.offset + -(-record.size // BLOCK) * BLOCK)  # a tar fills up its last block
        try:
            member = tarfile.TarInfo.frombuf(file.read(BLOCK), "utf-8", "replace")
        except tarfile.HeaderError as error:
            raise DatasetError(f"no {name} behind the image in {record.shard} ({error})") from None
        if member.name != name or member.size > MAX_SIDECAR:
            raise DatasetError(f"{member.name} is behind the image in {record.shard}, must be {name}")
        return file.read(member.size)


def read_part(parts: Path, number: int, key: str = "") -> Part | None:
    """The part of a shard that was finished, and made from the same; None where it's still to be written."""
    name = _name(number)
    file = parts / f"{name}.json"
    if not file.exists():
        return None
    said = json.loads(file.read_text(encoding="utf-8"))
    if said["key"] != key:
        return None
    return Part(pq.read_table(parts / f"{name}.parquet"), name, said["sha256"], said["notes"])


def _name(number: int) -> str:
    return f"{number:05d}.tar"
