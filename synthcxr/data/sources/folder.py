"""Any folder of images with a table of one's own."""

import logging
import re
from collections.abc import Iterator
from pathlib import Path

from synthcxr.data.sources.files import IMAGE_SUFFIXES, walk
from synthcxr.data.sources.own_table import TABLES, columns_of, entries, inside
from synthcxr.data.sources.row import Rejected, SourceRow
from synthcxr.data.sources.tables import one_file
from synthcxr.errors import SourceError, shown

log = logging.getLogger(__name__)


def folder(root: Path) -> Iterator[SourceRow | Rejected]:
    """Any folder of images with metadata.csv or metadata.jsonl (the ImageFolder convention of `datasets`).

    `file_name` is relative to the folder. All else is optional: patient, study, age, sex, race, view, findings (a list,
    names separated by |, or in JSON a mapping to states), text, prompt, report, licence. A prompt is parsed into the
    condition; columns of their own go before it. Without a patient column each image is its own patient.

    Raises:
        SourceError: no metadata, or a value that isn't one: file, row and field are named (the header is row 1).
    """
    table = one_file(root, "folder", TABLES)
    if "patient" not in columns_of(table):
        log.warning("%s has no patient column: each image is taken for a patient of its own", shown(table))
    names: dict[str, str] = {}
    for entry in entries(table, "file_name"):
        relative = inside(root, entry)
        image_id = re.sub(r"[^A-Za-z0-9_-]+", "-", relative.with_suffix("").as_posix())
        if len(image_id) > 90:
            raise SourceError(f"{entry.where}: file_name = {entry.key!r} must be at most 90 characters")
        if other := names.get(image_id):
            raise SourceError(f"{entry.where}: file_name {entry.key!r} gives the same id as {other!r}")
        names[image_id] = entry.key
        yield SourceRow(
            path=root / relative,
            id=image_id,
            patient=entry.patient or f"folder-{image_id}",
            study=entry.study or image_id,
            condition=entry.condition,
            report=entry.report,
            prompt=entry.prompt,
            source="folder",
            licence=entry.licence,
        )
    listed = {root / name for name in names.values()}
    for name in walk(root):
        if name.lower().endswith(IMAGE_SUFFIXES) and Path(name) not in listed:
            yield Rejected(path=Path(name), reason=f"not listed in {table.name}")
