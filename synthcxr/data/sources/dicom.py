"""A tree of DICOM files, with or without a table of one's own."""

from collections.abc import Iterator
from pathlib import Path

from synthcxr.conditions import Condition
from synthcxr.data.sources.files import DICOM_SUFFIXES, joined, walk
from synthcxr.data.sources.own_table import TABLES, Entry, columns_of, entries, inside
from synthcxr.data.sources.row import Rejected, SourceRow
from synthcxr.data.sources.tables import first_file
from synthcxr.errors import SourceError, shown

FILE_COLUMN, UID_COLUMN = "file_name", "SOPInstanceUID"
META_BYTES = 4096  # the UID is the third element of the file meta information, which begins at byte 132
_WIDE = (b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV")


def dicom(root: Path) -> Iterator[SourceRow | Rejected]:
    """A tree of DICOM files (.dcm, .dicom, or no extension), with metadata.csv or metadata.jsonl where there is one.

    The table is that of `folder`, keyed by file_name or by SOPInstanceUID; files that it doesn't list are left out.
    What it doesn't tell (patient, study, age, sex, view) comes from the header once the file is read, and what names
    images, patients and studies becomes pseudonyms: see `completed`.

    Raises:
        SourceError: no folder, no file, or a value of the table that isn't one: file, row and field are named.
    """
    if not root.is_dir():
        raise SourceError(f"{shown(root)} must be the folder of source dicom; there is none: give another root")
    table = first_file((root,), TABLES)
    by_uid = table is not None and UID_COLUMN in columns_of(table)
    files, others = _listed(root, by_uid)
    yield from others
    if not files:
        raise SourceError(f"{shown(root)} must hold one {' or '.join(DICOM_SUFFIXES)} file or more; found none")

    def build(path: Path, entry: Entry | None) -> SourceRow:
        return SourceRow(
            path=path,
            id=path.relative_to(root).as_posix(),
            patient=entry.patient if entry else None,
            study=entry.study if entry else None,
            condition=entry.condition if entry else Condition(),
            report=entry.report if entry else None,
            prompt=entry.prompt if entry else None,
            source="dicom",
            licence=entry.licence if entry else "not stated",
        )

    if table is None:
        yield from (build(Path(name), None) for name in files.values())
        return
    listed = (
        (table, entry.number, entry.key if by_uid else inside(root, entry).as_posix(), entry)
        for entry in entries(table, UID_COLUMN if by_uid else FILE_COLUMN)
    )
    yield from joined(files, listed, build, unlisted_by_rule=True)


def sop_instance_uid(path: Path) -> str | None:
    """The UID of a file, read from its first 4 KiB; "" where they don't hold it, None where it's no DICOM file.

    Media Storage SOP Instance UID (0002,0003) of the file meta information (PS3.10, 7.1), which is always explicit
    little endian and never compressed, so that an untrusted file can't make more of itself here.
    """
    try:
        with open(path, "rb") as file:
            head = file.read(META_BYTES)
    except OSError:
        return None
    if head[128:132] != b"DICM":
        return None
    place = 132
    while place + 8 <= len(head) and head[place : place + 2] == b"\x02\x00":
        element = int.from_bytes(head[place + 2 : place + 4], "little")
        wide = head[place + 4 : place + 6] in _WIDE
        start = place + (12 if wide else 8)
        length = int.from_bytes(head[start - (4 if wide else 2) : start], "little")
        if element == 3:
            return head[start : start + length].rstrip(b"\0 ").decode("ascii", "replace")
        place = start + length
    return ""


def _listed(root: Path, by_uid: bool) -> tuple[dict[str, str], list[Rejected]]:
    """The files by UID or by name relative to `root`, and those that have no such key or are no DICOM files."""
    files: dict[str, str] = {}
    others: list[Rejected] = []
    for name in walk(root):
        path = Path(name)
        if not _may_be_dicom(path):
            continue
        uid = sop_instance_uid(path) if by_uid or not path.suffix else ""
        key = uid if by_uid else path.relative_to(root).as_posix()
        if uid is None:
            rule = path.suffix.lower() not in DICOM_SUFFIXES  # any archive holds a README or so
            reason = "no DICOM file: no file meta information (PS3.10, 7.1)"
            others.append(Rejected(path=path, reason=reason, by_rule=rule))
        elif not key or key in files:
            reason = f"{UID_COLUMN} must be in the file meta information, and in no other file"
            others.append(Rejected(path=path, reason=reason))
        else:
            files[key] = name
    return files, others


def _may_be_dicom(path: Path) -> bool:
    """By its name; UIDs as file names look as if they had a suffix of digits."""
    suffix = path.suffix.lower()
    return path.name.upper() != "DICOMDIR" and (suffix in (*DICOM_SUFFIXES, "") or suffix[1:].isdecimal())
