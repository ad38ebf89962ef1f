"""`synthcxr export`: a DATASET in a form that other software reads."""

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, Field

from synthcxr.config import Config
from synthcxr.data.card import card
from synthcxr.data.croissant import CROISSANT, croissant
from synthcxr.data.dataset import Dataset
from synthcxr.data.origin import audits_of, passed
from synthcxr.data.sums import SUMS, check_sums, write_sums
from synthcxr.dicom.write import DicomSettings
from synthcxr.errors import DatasetError, RunError, one_of, shown
from synthcxr.runs import TEMPORARY_PREFIX, Run, remove, write_json, write_text
from synthcxr.synthesis.export.formats import FORMATS, Format
from synthcxr.synthesis.export.job import Job

log = logging.getLogger(__name__)


class ExportConfig(Config):
    """What `synthcxr export` needs."""

    dataset: Path
    to: Annotated[str, AfterValidator(lambda name: one_of(name, FORMATS))]
    output: Path
    unaudited: bool = Field(False, description="also images of a model without a passing privacy audit; the card says so")
    dicom: DicomSettings = Field(DicomSettings(), description="of the files that `to: dicom` writes")
    dataset_hash: str | None = Field(None, description="refuse a dataset whose manifest has another hash")
