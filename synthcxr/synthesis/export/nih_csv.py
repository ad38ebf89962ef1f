"""The layout of NIH ChestX-ray14 (Wang et al. 2017): the table, the folder of images, the lists of the split."""

import re
from collections import Counter
from collections.abc import Iterator

from synthcxr.data.csv_table import safe_cell, write_csv
from synthcxr.data.record import Record
from synthcxr.errors import DatasetError, shown
from synthcxr.files import write_text
from synthcxr.synthesis.export.job import METADATA, Job, metadata, write_metadata
from synthcxr.vocabulary import NIH_LABELS, Finding

TABLE = "Data_Entry_2017_v2020.csv"
# As published: the headers of the last four columns are two, cut at their commas.
COLUMNS = (
    "Image Index", "Finding Labels", "Follow-up #", "Patient ID", "Patient Age", "Patient Gender", "View Position",
    "OriginalImage[Width", "Height]", "OriginalImagePixelSpacing[x", "y]",
)  # fmt: skip
LABELS = {finding: label for label, finding in NIH_LABELS.items() if finding is not Finding.NO_FINDING}
NO_FINDING = "No Finding"
SEXES = {"female": "F", "male": "M", None: ""}


def nih_csv(job: Job) -> None:
    """`images/<id>.png`, the table, train_val_list.txt and test_list.txt, and metadata.parquet with the rest.

    What is unknown is blank in the table: among it the pixel spacing, which a DATASET doesn't keep.
    """
    images = job.output / "images"
    images.mkdir(exist_ok=True)
    names = [safe_cell(f"{record.id}.png") for record in job.records]
    for record, name in zip(job.progress(job.records), names, strict=True):
        job.write_png(images / name, record)
    write_csv(job.output / TABLE, COLUMNS, _rows(job.records, names))
    for list_name, splits in (("train_val_list.txt", ("train", "validate")), ("test_list.txt", ("test",))):
        listed = [name for record, name in zip(job.records, names, strict=True) if record.split in splits]
        write_text(job.output / list_name, "".join(f"{name}\n" for name in listed))
    write_metadata(job.output / METADATA, metadata(job.dataset.table), [f"images/{name}" for name in names])


def check_labels(job: Job) -> None:
    """Raise a DatasetError for the first image of which the table would say nothing, or that nothing was found."""
    for record in job.records:
        if not _labels(record):
            said = ", ".join(sorted(record.present)) or "nothing stated as present"
            raise DatasetError(
                f"{shown(job.dataset.path)}: image {record.id} has no NIH label (but {said}); give another form"
            )


def _rows(records: list[Record], names: list[str]) -> Iterator[tuple[str | int | None, ...]]:
    patients = _numbers(records)
    seen: Counter[str] = Counter()
    for record, name in zip(records, names, strict=True):
        condition = record.condition
        yield (
            name, "|".join(_labels(record)), seen[record.patient], patients[record.patient], condition.age,
            SEXES[condition.sex], condition.view, record.native_width, record.native_height, None, None,
        )  # fmt: skip
        seen[record.patient] += 1


def _labels(record: Record) -> list[str]:
    """NIH's labels of an image. "No Finding" says that there's none of theirs: devices may be there."""
    labels = sorted(LABELS[finding] for finding in record.present if finding in LABELS)
    stated = record.condition.findings.get(Finding.NO_FINDING)
    return labels or ([NO_FINDING] if stated is not None and stated.state == "present" else [])


def _numbers(records: list[Record]) -> dict[str, int]:
    """Patients as numbers, which loaders of the table expect: NIH's own keep theirs; any others count from 1."""
    patients = dict.fromkeys(record.patient for record in records)
    matches = {patient: re.fullmatch(r"nih-(\d+)", patient) for patient in patients}
    if all(matches.values()):
        return {patient: int(match[1]) for patient, match in matches.items()}
    return {patient: number for number, patient in enumerate(patients, start=1)}
