"""The forms of an export; adding one is its function and its line in FORMATS."""

from collections.abc import Callable
from typing import NamedTuple

from synthcxr.data.croissant import Files
from synthcxr.synthesis.export.dicom import check_dicom, dicom
from synthcxr.synthesis.export.imagefolder import imagefolder
from synthcxr.synthesis.export.job import METADATA, Job
from synthcxr.synthesis.export.nih_csv import TABLE, check_labels, nih_csv
from synthcxr.synthesis.export.parquet import parquet
from synthcxr.synthesis.export.webdataset import webdataset

PARQUET, CSV, JSON_LINES = "application/x-parquet", "text/csv", "application/jsonlines"
PNG = "image/png"


class Format(NamedTuple):
    """How a dataset is written, where its tables and images then are, and what the card says of it.

    `check` raises a UserError, before anything is written, where a dataset can't have this form.
    """

    write: Callable[[Job], None]
    tables: Files
    images: Files
    layout: str
    check: Callable[[Job], None] = lambda job: None


_ROWS = "Columns are those of the manifest; `labels` are the findings present, `findings` all their states as JSON."
FORMATS: dict[str, Format] = {
    "imagefolder": Format(
        imagefolder, Files(f"*/{METADATA}", PARQUET), Files("*/*.png", PNG),
        f'`<split>/<id>.png` and `<split>/{METADATA}`; `datasets.load_dataset("imagefolder", data_dir=...)`. {_ROWS}',
    ),
    "parquet": Format(
        parquet, Files("data/*.parquet", PARQUET), Files("data/*.parquet", PARQUET),
        f'`data/<split>-*.parquet`, images inside; `datasets.load_dataset("parquet", data_dir=...)`. {_ROWS}',
    ),
    "webdataset": Format(
        webdataset, Files(METADATA, PARQUET), Files("*.tar", "application/x-tar"),
        f"`<split>-*.tar` with png, json and txt (the prompt) of each image; {METADATA} has all rows. {_ROWS}",
    ),
    "nih-csv": Format(
        nih_csv, Files(TABLE, CSV), Files("images/*.png", PNG),
        f"`images/<id>.png` and `{TABLE}`, as ChestX-ray14 is laid out. The table holds NIH's labels that are present: "
        f"other findings, sides, race, prompts and origin stand in `{METADATA}` alone; unknown values, among them the "
        "pixel spacing, are blank in it.",
        check=check_labels,
    ),
    "dicom": Format(
        dicom, Files("metadata.jsonl", JSON_LINES), Files("*/*.dcm", "application/dicom"),
        "`<split>/<id>.dcm`, marked as synthetic in SyntheticData (0008,001C); `metadata.jsonl` has a row a file. The "
        "pixel spacing is made up.",
        check=check_dicom,
    ),
}  # fmt: skip
