"""`synthcxr export`: a DATASET in a form that other software reads."""

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, NamedTuple

import pyarrow.compute as pc
from pydantic import AfterValidator, Field, ValidationError
from tqdm import tqdm

from synthcxr.conditions import to_prompt
from synthcxr.config import Config, explain
from synthcxr.data.dataset import Dataset
from synthcxr.data.record import Record
from synthcxr.dicom.write import DicomSettings, Provenance, check_compression, write_dicom, written_uid
from synthcxr.errors import DatasetError, RunError, UserError, one_of, shown
from synthcxr.images import read_image, read_provenance
from synthcxr.runs import Run, atomic_path

_OF_THE_SHARDS = {"shard", "offset", "size", "sha256", "width", "height", "bits", "native_width", "native_height"}


class ExportConfig(Config):
    """What `synthcxr export` needs."""

    dataset: Path
    to: Annotated[str, AfterValidator(lambda name: one_of(name, FORMATS))]
    output: Path
    dicom: DicomSettings = Field(DicomSettings(), description="of the files that `to: dicom` writes")
    dataset_hash: str | None = Field(None, description="refuse a dataset whose manifest has another hash")


class Format(NamedTuple):
    """How a dataset is written into `config.output`, and what is checked before anything is.

    `write` may find what an earlier, interrupted call left, and keeps what is whole of it.
    """

    write: Callable[[Dataset, ExportConfig], None]
    check: Callable[[Dataset, ExportConfig], None] = lambda dataset, config: None


def run(config: ExportConfig, fresh: bool = False) -> int:
    """Write a DATASET in the format asked for; the same command again goes on where it was cut off.

    Returns:
        the number of images.
    Raises:
        DatasetError: no dataset, not the one that `dataset_hash` names, or one that can't have this format.
        ImageError: the compression asked for isn't installed.
        RunError: the output holds something else, or an export with another configuration or of another dataset.
    """
    dataset = Dataset.open(config.dataset)
    if config.dataset_hash not in (None, dataset.hash):
        raise DatasetError(f"{shown(config.dataset)} isn't the dataset whose hash is dataset_hash; give that one")
    form = FORMATS[config.to]
    form.check(dataset, config)
    output = config.output
    if output.is_dir() and any(output.iterdir()) and not (output / "config.yaml").exists():
        raise RunError(f"{shown(output)} isn't empty and holds no export; give another --output")
    # The dataset's hash becomes part of the run's configuration: an export is resumed from the same dataset or not.
    folder = Run.open(output, config.model_copy(update={"dataset_hash": dataset.hash}), "export", fresh)
    form.write(dataset, config)
    if not folder.finished:
        folder.finish({"images": len(dataset)})
    return len(dataset)


def dicom(dataset: Dataset, config: ExportConfig) -> None:
    """`<split>/<id>.dcm`, and metadata.jsonl with a row a file: all that the manifest says of it, and its UID."""
    for split in set(dataset.table.column("split").to_pylist()):
        (config.output / split).mkdir(exist_ok=True)
    with atomic_path(config.output / "metadata.jsonl") as temporary, open(temporary, "w", encoding="utf-8") as index:
        for record in _checked(dataset):
            name = f"{record.split}/{record.id}.dcm"
            uid = written_uid(config.output / name) or _write_dicom(dataset, record, config.output / name, config.dicom)
            row = record.model_dump(mode="json", exclude=_OF_THE_SHARDS | {"condition"}, exclude_none=True)
            row |= record.condition.model_dump(mode="json")  # flat, as `synthcxr generate` writes it
            index.write(json.dumps({"file_name": name, "sop_instance_uid": uid, **row}) + "\n")


def _can_be_dicom(dataset: Dataset, config: ExportConfig) -> None:
    check_compression(config.dicom)
    real = dataset.table.filter(pc.not_equal(dataset.table.column("origin"), "synthetic")).column("id")
    if dataset.info.get("origin") != "synthetic" or len(real):
        which = f"image {real[0].as_py()}" if len(real) else "the dataset"
        raise DatasetError(f"{shown(dataset.path)}: {which} is real; DICOM is written of synthetic images alone")


def _write_dicom(dataset: Dataset, record: Record, path: Path, settings: DicomSettings) -> str:
    data = dataset.read_bytes(record)
    name = f"{shown(dataset.path)}: image {record.id}"
    if read_provenance(data) is None:
        raise DatasetError(f"{name} isn't marked as synthetic itself; DICOM is written of synthetic images alone")
    if record.seed is None or record.model is None:
        raise DatasetError(f"{name} has no seed or no model; a synthetic image must say where it comes from")
    prompt = record.prompt if record.prompt is not None else to_prompt(record.condition)
    provenance = Provenance(
        prompt=prompt, model_prompt=prompt, seed=record.seed, model=record.model, sampler=record.sampler
    )
    return write_dicom(path, read_image(data, name), record.condition, provenance, settings)


def _checked(dataset: Dataset) -> Iterator[Record]:
    """Every record, validated: ids become file names here, and ages and races DICOM values with rules of their own."""
    for record in tqdm(dataset.records, "export", file=sys.stderr, unit="image", disable=None):
        row = record.model_dump()
        try:
            yield Record.model_validate(row)
        except (ValidationError, UserError) as error:
            problem = explain(error, Record, row) if isinstance(error, ValidationError) else str(error)
            raise DatasetError(f"{shown(dataset.path)}: image {record.id!r}: {problem}") from None


FORMATS: dict[str, Format] = {
    "dicom": Format(dicom, check=_can_be_dicom),
}
