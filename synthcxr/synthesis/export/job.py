"""The images of an export: their records, checked; their PNGs, with the marks of origin; their rows of metadata."""

import hashlib
import json
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pydantic import ValidationError
from tqdm import tqdm

from synthcxr.conditions import to_prompt
from synthcxr.config import explain
from synthcxr.data.dataset import Dataset
from synthcxr.data.record import SCHEMA, Record
from synthcxr.dicom.write import DicomSettings
from synthcxr.errors import DatasetError, UserError, shown
from synthcxr.files import atomic_path, sha256_file, write_bytes
from synthcxr.images import read_provenance

# Of a shard and of the pixels, which the files themselves tell.
OF_THE_SHARDS = frozenset(
    {"shard", "offset", "size", "sha256", "width", "height", "bits", "native_width", "native_height"}
)
METADATA = "metadata.parquet"
HUB_SPLITS = {"train": "train", "validate": "validation", "test": "test"}  # as `datasets` finds splits in names
FILE_ROWS = 1000  # images a file, of forms that pack many


@dataclass(frozen=True)
class Split:
    """The images of one split: its name in the hub's words, its records, and their rows of metadata."""

    name: str
    records: list[Record]
    rows: pa.Table

    def files(self) -> Iterator["Split"]:
        """The images of one packed file after the other."""
        for start in range(0, len(self.records), FILE_ROWS):
            yield Split(self.name, self.records[start : start + FILE_ROWS], self.rows.slice(start, FILE_ROWS))


@dataclass(frozen=True)
class Job:
    """What is written where.

    A form may find what an earlier, interrupted call left: every file there is whole, and stays.
    """

    dataset: Dataset
    output: Path
    dicom: DicomSettings

    @cached_property
    def records(self) -> list[Record]:
        """Every record, validated: ids become file names, and ages and races DICOM values with rules of their own.

        Raises:
            DatasetError: the image and the rule that is broken.
        """
        return [self._checked(record) for record in self.dataset.records]

    def splits(self) -> Iterator[Split]:
        """The splits that hold an image."""
        rows = metadata(self.dataset.table)
        for split, name in HUB_SPLITS.items():
            if records := [record for record in self.records if record.split == split]:
                yield Split(name, records, rows.filter(pc.equal(rows.column("split"), split)))

    def progress(self, records: Iterable[Record]) -> Iterator[Record]:
        """The same records, with a bar on stderr."""
        return iter(tqdm(records, "export", file=sys.stderr, unit="image", disable=None))

    def png(self, record: Record) -> bytes:
        """The PNG of an image, with its marks where it's synthetic.

        Raises:
            DatasetError: it isn't the image that the manifest tells of, or its marks say another origin.
        """
        data = self.dataset.read_bytes(record)
        name = f"{shown(self.dataset.path)}: image {record.id}"
        if hashlib.sha256(data).hexdigest() != record.sha256:
            raise DatasetError(f"{name}: sha256 differs from the manifest; restore its shard or prepare again")
        marked = read_provenance(data) is not None
        if marked != (record.origin == "synthetic"):
            marks = "is marked as synthetic itself" if marked else "isn't marked as synthetic itself"
            raise DatasetError(f"{name} {marks}, but its row says {record.origin}; make the dataset again")
        return data

    def write_png(self, path: Path, record: Record) -> None:
        """The PNG as a file of its own, where it isn't there already."""
        if not (path.is_file() and sha256_file(path) == record.sha256):
            write_bytes(path, self.png(record))

    def _checked(self, record: Record) -> Record:
        row = record.model_dump()
        try:
            return Record.model_validate(row)
        except (ValidationError, UserError) as error:
            problem = explain(error, Record, row) if isinstance(error, ValidationError) else str(error)
            raise DatasetError(f"{shown(self.dataset.path)}: image {record.id!r}: {problem}") from None


def prompt_of(record: Record) -> str:
    """The prompt of an image; where there is none, its condition in the canonical words."""
    return record.prompt if record.prompt is not None else to_prompt(record.condition)


def metadata(table: pa.Table) -> pa.Table:
    """The rows of images: the manifest's columns but those of the shards, and labels.

    `labels` are the findings that are present, separated by |; `findings` is JSON with their states.
    """
    kept = table.select([name for name in SCHEMA.names if name not in OF_THE_SHARDS])
    labels = [_labels(findings) for findings in table.column("findings").to_pylist()]
    return kept.append_column("labels", pa.array(labels, pa.string()))


def write_metadata(path: Path, rows: pa.Table, file_names: list[str]) -> None:
    """Rows with the names of their files, in typed columns: the same ones in any table, whatever is unknown."""
    table = rows.add_column(0, "file_name", pa.array(file_names, pa.string()))
    with atomic_path(path) as temporary:
        pq.write_table(table, temporary)


@lru_cache(maxsize=4096)
def _labels(findings: str | None) -> str:
    states = json.loads(findings or "{}")
    return "|".join(finding for finding, state in states.items() if state["state"] == "present")
