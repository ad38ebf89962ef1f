"""Readers of image collections: one function a source in a file of its name, one line of SOURCES each.

A source reads tables and lists files; it opens no image. What it can't use it yields as `Rejected`, with the reason.

row.py        what a source yields; `completed` fills what only a DICOM header tells
cells.py      cells of tables into the fields of a condition
tables.py     published tables, as a stream
own_table.py  metadata.csv and metadata.jsonl of one's own
texts.py      reports: what is kept, and how they add to labels
files.py      image files, and their meeting with the rows of a table
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator

from synthcxr.data.sources.chexpert import chexpert, chexpert_plus
from synthcxr.data.sources.dicom import dicom
from synthcxr.data.sources.folder import folder
from synthcxr.data.sources.hannover import hannover
from synthcxr.data.sources.mimic import mimic_cxr_jpg
from synthcxr.data.sources.nih import nih
from synthcxr.data.sources.openi import openi
from synthcxr.data.sources.padchest import padchest
from synthcxr.data.sources.row import OWN, Header, PublishedRow, Rejected, SourceRow, SplitHint, completed, own_id
from synthcxr.data.sources.vindr import vindr
from synthcxr.errors import one_of

__all__ = [
    "OWN", "PIXELS", "SOURCES", "Header", "PublishedRow", "Rejected", "SourceName", "SourceRow", "SplitHint",
    "chexpert", "chexpert_plus", "completed", "dicom", "folder", "hannover", "mimic_cxr_jpg", "nih", "openi", "own_id",
    "padchest", "vindr",
]  # fmt: skip

SOURCES: dict[str, Callable[[Path], Iterator[SourceRow | Rejected]]] = {
    "mimic_cxr_jpg": mimic_cxr_jpg,
    "chexpert": chexpert,
    "chexpert_plus": chexpert_plus,
    "nih": nih,
    "padchest": padchest,
    "openi": openi,
    "vindr": vindr,
    "hannover": hannover,
    "dicom": dicom,
    "folder": folder,
}

# What a publisher did to the pixels beyond windowing them, to be kept with a dataset: such images don't mix unseen.
PIXELS: dict[str, str] = {
    "mimic_cxr_jpg": "histogram-equalised by the publisher, 8-bit JPEG of quality 95",
}


SourceName = Annotated[str, AfterValidator(lambda name: one_of(name, SOURCES))]
