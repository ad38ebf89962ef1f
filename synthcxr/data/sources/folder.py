"""Any folder of images with a table of one's own."""

import logging
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
    condition; columns of their own go before it. Without a patient each study is a patient of its own, and without a
    study each image. What the table calls images, patients and studies becomes pseudonyms: see `completed`.

    Raises:
        SourceError: no metadata, or a value that isn't one: file, row and field are named (the header is row 1).
    """
    table = one_file(root, "folder", TABLES)
    if "patient" not in columns_of(table):
        log.warning("%s has no patient column: each study, or else image, counts as a patient of its own", shown(table))
    listed: dict[Path, int] = {}
    for entry in entries(table, "file_name"):
        path = root / inside(root, entry)
        if (other := listed.setdefault(path, entry.number)) != entry.number:
            raise SourceError(f"{entry.where}: file_name is that of row {other} again; list each image once")
        yield SourceRow(
            path=path,
            id=path.relative_to(root).as_posix(),
            patient=entry.patient,
            study=entry.study,
            condition=entry.condition,
            report=entry.report,
            prompt=entry.prompt,
            source="folder",
            licence=entry.licence,
        )
    for name in walk(root):
        if name.lower().endswith(IMAGE_SUFFIXES) and Path(name) not in listed:
            yield Rejected(path=Path(name), reason=f"not listed in {table.name}")
