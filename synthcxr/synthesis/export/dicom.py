"""DICOM files, of synthetic images alone."""

import json

import pyarrow.compute as pc

from synthcxr.data.record import Record
from synthcxr.dicom.write import Provenance, check_compression, write_dicom, written_uid
from synthcxr.errors import DatasetError, shown
from synthcxr.files import atomic_path
from synthcxr.images import read_image
from synthcxr.synthesis.export.job import OF_THE_SHARDS, Job, prompt_of


def dicom(job: Job) -> None:
    """`<split>/<id>.dcm`, and metadata.jsonl with a row a file: all that the manifest says of it, and its UID."""
    for split in {record.split for record in job.records}:
        (job.output / split).mkdir(exist_ok=True)
    with atomic_path(job.output / "metadata.jsonl") as temporary, open(temporary, "w", encoding="utf-8") as index:
        for record in job.progress(job.records):
            name = f"{record.split}/{record.id}.dcm"
            uid = written_uid(job.output / name) or _write_dicom(job, record, name)
            row = record.model_dump(mode="json", exclude=OF_THE_SHARDS | {"condition"}, exclude_none=True)
            row |= record.condition.model_dump(mode="json")  # flat, as `synthcxr generate` writes it
            index.write(json.dumps({"file_name": name, "sop_instance_uid": uid, **row}) + "\n")


def check_dicom(job: Job) -> None:
    """Raise an ImageError or a DatasetError, before any work, where DICOM can't be written of the dataset."""
    check_compression(job.dicom)
    dataset = job.dataset
    real = dataset.table.filter(pc.not_equal(dataset.table.column("origin"), "synthetic")).column("id")
    if dataset.info.get("origin") != "synthetic" or len(real):
        which = f"image {real[0].as_py()}" if len(real) else "the dataset"
        raise DatasetError(f"{shown(dataset.path)}: {which} is real; DICOM is written of synthetic images alone")


def _write_dicom(job: Job, record: Record, file_name: str) -> str:
    data = job.png(record)
    name = f"{shown(job.dataset.path)}: image {record.id}"
    if record.seed is None or record.model is None:
        raise DatasetError(f"{name} has no seed or no model; a synthetic image must say where it comes from")
    prompt = prompt_of(record)
    provenance = Provenance(
        prompt=prompt, model_prompt=prompt, seed=record.seed, model=record.model, sampler=record.sampler
    )
    return write_dicom(job.output / file_name, read_image(data, name), record.condition, provenance, job.dicom)
