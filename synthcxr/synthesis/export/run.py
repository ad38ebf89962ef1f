"""`synthcxr export`: a DATASET in a form that other software reads."""

import logging
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, Field

from synthcxr.config import Config
from synthcxr.data.card import card
from synthcxr.data.croissant import CROISSANT, columns_of, croissant
from synthcxr.data.dataset import Dataset
from synthcxr.data.origin import audits_of, passed
from synthcxr.data.sums import SUMS, changed_files, write_sums
from synthcxr.dicom.write import DicomSettings
from synthcxr.errors import DatasetError, RunError, one_of, shown
from synthcxr.files import TEMPORARY_PREFIX, remove, write_json, write_text
from synthcxr.runs import Run
from synthcxr.synthesis.export.formats import FORMATS, Format
from synthcxr.synthesis.export.job import Job

log = logging.getLogger(__name__)


class ExportConfig(Config):
    """What `synthcxr export` needs."""

    dataset: Path
    to: Annotated[str, AfterValidator(lambda name: one_of(name, FORMATS))]
    output: Path
    unaudited: bool = Field(False, description="also of a model without a passing privacy audit; the card says so")
    dicom: DicomSettings = Field(DicomSettings(), description="of the files that `to: dicom` writes")
    dataset_hash: str | None = Field(None, description="refuse a dataset whose manifest has another hash")


def run(config: ExportConfig, fresh: bool = False) -> int:
    """Write a DATASET in the form asked for; the same command again goes on where it was cut off, and mends.

    Beside the images the folder holds a card, Croissant metadata, and SHA256SUMS, written last: `synthcxr verify` tells
    whether all is there.

    Returns:
        the number of images.
    Raises:
        DatasetError: no dataset, not the one that `dataset_hash` names, one that can't have this form, or images of a
            model without a passing privacy audit.
        ImageError: the compression asked for isn't installed.
        RunError: the output holds something else, or an export with another configuration or of another dataset.
    """
    dataset = Dataset.open(config.dataset)
    if config.dataset_hash not in (None, dataset.hash):
        raise DatasetError(f"{shown(config.dataset)} isn't the dataset whose hash is dataset_hash; give that one")
    unaudited = _unaudited(dataset, config)
    form, job = FORMATS[config.to], Job(dataset, config.output, config.dicom)
    form.check(job)
    output = config.output
    if output.is_dir() and any(output.iterdir()) and not (output / "config.yaml").exists():
        raise RunError(f"{shown(output)} isn't empty and holds no export; give another --output")
    # The dataset's hash becomes part of the run's configuration: an export is resumed from the same dataset or not.
    folder = Run.open(output, config.model_copy(update={"dataset_hash": dataset.hash}), "export", fresh)
    damaged = _damaged(output)
    if folder.finished and damaged == []:
        return len(dataset)
    for path in (*output.rglob(f"{TEMPORARY_PREFIX}*"), *(output / name for name in damaged or [])):
        remove(path)
    form.write(job)
    _describe(job, form, unaudited)
    if not folder.finished:
        folder.finish({"images": len(dataset)})
    write_sums(output)
    return len(dataset)


def _unaudited(dataset: Dataset, config: ExportConfig) -> list[str]:
    """Models of the images that have no passing privacy audit, which must be wanted."""
    models = [model for model, audit in audits_of(dataset.info, dataset.table).items() if not passed(audit)]
    if models and not config.unaudited:
        raise DatasetError(
            f"{shown(dataset.path)}: its model {models[0][:12]} has no passing privacy audit; audit it first, or "
            "export with --unaudited, which the card will say"
        )
    return models


def _damaged(output: Path) -> list[str] | None:
    """Files of an earlier export that aren't as its SHA256SUMS says, lost ones too; None where it has no sums yet."""
    if not (output / SUMS).is_file():
        return None
    kept = {path.name for path in (Run(output).config_path, Run(output).environment_path, Run(output).log_path)}
    changed = [name for name in changed_files(output) if name not in kept]
    for name in changed:
        log.warning("%s isn't as it was written; it's written again", shown(output / name))
    return changed


def _describe(job: Job, form: Format, unaudited: list[str]) -> None:
    """README.md and croissant.json."""
    dataset, name = job.dataset, job.output.resolve().name
    layout = f"{form.layout} Exported from the dataset whose manifest has the sha256 {dataset.hash}."
    if unaudited:
        models = ", ".join(model[:12] for model in unaudited)
        layout += f"\n\n**Unaudited**: exported although no passing privacy audit is known of model {models}.\n"
    write_text(job.output / "README.md", card(name, dataset.info, dataset.table, layout))
    table = next(iter(sorted(job.output.glob(form.tables.includes))), None)
    columns = [] if table is None else columns_of(table)
    told = croissant(name, dataset.info, dataset.table, form.tables, form.images, columns)
    write_json(job.output / CROISSANT, told)
