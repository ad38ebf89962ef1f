"""Readers of image collections: one function a source, one line of SOURCES each.

A source reads tables and lists files; it opens no image. What it can't use it yields as `Rejected`, with the reason.
"""

import csv
import gzip
import json
import logging
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator

from synthcxr.conditions import MAX_AGE, NIH_LABELS, Condition, FindingState, parse_prompt
from synthcxr.config import Config
from synthcxr.errors import ConditionError, SourceError, did_you_mean, shown
from synthcxr.vocabulary import Finding

log = logging.getLogger(__name__)

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg")
NIH_LICENCE = "NIH Clinical Center: unrestricted use; link, citation and credit asked"
NIH_COLUMNS = 7
FOLDER_COLUMNS = (
    "file_name", "patient", "study", "age", "sex", "race", "view", "findings", "text", "prompt", "report", "licence",
)  # fmt: skip


class SourceRow(Config):
    """One image of a source: where it lies, whose it is, what is known of it."""

    path: Path
    id: str
    patient: str
    study: str
    condition: Condition
    report: str | None = None
    prompt: str | None = None
    source: str
    licence: str


class Rejected(Config):
    """An image that the source can't use, and why."""

    path: Path
    reason: str


def nih(root: Path) -> Iterator[SourceRow | Rejected]:
    """NIH ChestX-ray14 (Wang et al. 2017): Data_Entry_2017*.csv[.gz] beside any folders of images.

    The last two headers of the table hold a comma, so it's read by position. Images are matched by stem, since copies
    come re-encoded; the table may list more images than there are. Labels are text-mined: a label listed is present,
    one not listed is unknown.

    Raises:
        SourceError: no table, no image, or a row of the table that isn't one (named).
    """
    table = _one_file(root, "nih", ("Data_Entry_2017*.csv", "Data_Entry_2017*.csv.gz"))
    rows = {}
    for number, cells in enumerate(_csv_rows(table), start=2):
        if len(cells) < NIH_COLUMNS:
            raise SourceError(f"{shown(table)} row {number}: {len(cells)} columns, must be {NIH_COLUMNS} or more")
        rows[Path(cells[0]).stem] = (number, cells)
    for path in _one_image_a_stem(root):
        if path.stem not in rows:
            yield Rejected(path=path, reason=f"not listed in {table.name}")
            continue
        number, (_, labels, _, patient, age, sex, view, *_) = rows[path.stem]
        try:
            condition = Condition(
                findings={_nih_finding(label): FindingState() for label in labels.split("|")},
                age=_nih_age(age),
                sex=sex,
                view=view,
            )
        except ConditionError as error:
            raise SourceError(f"{shown(table)} row {number}: {error}") from error
        study = {"patient": f"nih-{patient.lstrip('0')}", "study": path.stem}
        yield SourceRow(path=path, id=path.stem, condition=condition, source="nih", licence=NIH_LICENCE, **study)


def hannover(root: Path) -> Iterator[SourceRow | Rejected]:
    """COVID-19 image repository of Hannover Medical School (Winther et al. 2020): data.csv, images/<image_id>.*.

    No findings are coded and ages are redacted, so a condition has the sex and the view alone.

    Raises:
        SourceError: no table, a missing column, no image, or a value that isn't one (named).
    """
    table = _one_file(root, "hannover", ("data.csv",))
    listed = list(_table_rows(table))
    _need_columns(table, (row for _, row in listed), ("patient_id", "image_id", "sex", "projection"))
    rows = {row["image_id"]: (number, row) for number, row in listed}
    for path in _one_image_a_stem(root):
        if path.stem not in rows:
            yield Rejected(path=path, reason=f"not listed in {table.name}")
            continue
        number, row = rows[path.stem]
        try:
            condition = Condition(sex=row["sex"] or None, view=row["projection"] or None)
        except ConditionError as error:
            raise SourceError(f"{shown(table)} row {number}: {error}") from error
        study = {"patient": f"hannover-{row['patient_id']}", "study": path.stem}
        yield SourceRow(path=path, id=path.stem, condition=condition, source="hannover", licence="CC BY 3.0", **study)


def folder(root: Path) -> Iterator[SourceRow | Rejected]:
    """Any folder of images with metadata.csv or metadata.jsonl (the ImageFolder convention of `datasets`).

    `file_name` is relative to the folder. All else is optional: patient, study, age, sex, race, view, findings (a list,
    names separated by |, or in JSON a mapping to states), text, prompt, report, licence. A prompt is parsed into the
    condition; columns of their own go before it. Without a patient column each image is its own patient.

    Raises:
        SourceError: no metadata, or a value that isn't one: file, row and field are named (the header is row 1).
    """
    table = _one_file(root, "folder", ("metadata.csv", "metadata.jsonl"))
    rows = list(_table_rows(table))
    _need_columns(table, (row for _, row in rows), ("file_name",))
    columns = {name for _, row in rows for name in row}
    for name in sorted(columns - set(FOLDER_COLUMNS)):
        if hint := did_you_mean(name, set(FOLDER_COLUMNS) - columns):
            log.warning("%s: column %r isn't read%s", shown(table), name, hint)
    if "patient" not in columns:
        log.warning("%s has no patient column: each image is taken for a patient of its own", shown(table))
    seen: dict[str, str] = {}
    for number, row in rows:
        item = _folder_row(root, f"{shown(table)} row {number}", row)
        if other := seen.get(item.id):
            raise SourceError(
                f"{shown(table)} row {number}: file_name {row['file_name']!r} gives the same id as {other!r}"
            )
        seen[item.id] = str(row["file_name"])
        yield item
    listed = {(root / name).resolve() for name in seen.values()}
    for path in _images(root):
        if path.resolve() not in listed:
            yield Rejected(path=path, reason=f"not listed in {table.name}")


SOURCES: dict[str, Callable[[Path], Iterator[SourceRow | Rejected]]] = {
    "nih": nih,
    "hannover": hannover,
    "folder": folder,
}


def _known_source(name: str) -> str:
    if name not in SOURCES:
        raise ValueError(f"must be one of {', '.join(SOURCES)}{did_you_mean(name, SOURCES)}")
    return name


SourceName = Annotated[str, AfterValidator(_known_source)]


def _nih_finding(label: str) -> Finding:
    if label not in NIH_LABELS:
        raise ConditionError(f"unknown finding {label!r}{did_you_mean(label, NIH_LABELS)}")
    return NIH_LABELS[label]


def _nih_age(text: str) -> int | None:
    """Years. The first release of the table writes 058Y, and has a few ages up to 414: those are unknown."""
    digits = text.strip().rstrip("Y")
    if not digits.isdecimal():
        raise ConditionError(f"age = {text!r} must be a whole number of years")
    return int(digits) if int(digits) <= MAX_AGE else None


def _folder_row(root: Path, where: str, row: dict[str, Any]) -> SourceRow:
    name = row.get("file_name")
    relative = Path(str(name or ""))
    if not name or relative.is_absolute() or ".." in relative.parts:
        raise SourceError(f"{where}: file_name = {name!r} must be a path inside {shown(root)}")
    try:
        condition = _folder_condition(row)
    except ConditionError as error:
        raise SourceError(f"{where}: {error}") from error
    image_id = re.sub(r"[^A-Za-z0-9_-]+", "-", relative.with_suffix("").as_posix())
    if len(image_id) > 90:
        raise SourceError(f"{where}: file_name = {name!r} must be at most 90 characters")
    optional = {key: _text(row.get(key)) for key in ("report", "prompt")}
    return SourceRow(
        path=root / relative,
        id=image_id,
        patient=_text(row.get("patient")) or f"folder-{image_id}",
        study=_text(row.get("study")) or image_id,
        condition=condition,
        source="folder",
        licence=_text(row.get("licence")) or "not stated",
        **optional,
    )


def _folder_condition(row: dict[str, Any]) -> Condition:
    prompt = _text(row.get("prompt"))
    fields: dict[str, Any] = dict(parse_prompt(prompt)) if prompt else {}
    for name in ("sex", "race", "view", "text"):
        if value := _text(row.get(name)):
            fields[name] = value
    if age := _text(row.get("age")):
        # Tables with blanks often hold whole numbers as 72.0.
        fields["age"] = age.removesuffix(".0")
    findings = row.get("findings")
    if isinstance(findings, str):
        findings = [name.strip() for name in findings.split("|") if name.strip()]
    if findings:
        fields["findings"] = findings
    return Condition(**fields)


def _text(value: Any) -> str | None:
    return None if value is None else str(value).strip() or None


def _one_file(root: Path, source: str, patterns: Iterable[str]) -> Path:
    patterns = tuple(patterns)
    if not root.is_dir():
        raise SourceError(f"{shown(root)} must be the folder of source {source}; there is none: give another root")
    found = sorted(path for pattern in patterns for path in root.glob(pattern))
    if len(found) != 1:
        names = ", ".join(path.name for path in found) or "none"
        raise SourceError(f"{shown(root)} must hold one {' or '.join(patterns)} for source {source}; found {names}")
    return found[0]


def _images(root: Path) -> Iterator[Path]:
    for path in sorted(root.rglob("*")):
        if path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith("."):
            yield path


def _one_image_a_stem(root: Path) -> list[Path]:
    """The images under `root` by stem; of several copies of one image, the largest file."""
    best: dict[str, Path] = {}
    copies = 0
    for path in _images(root):
        other = best.setdefault(path.stem, path)
        if other != path:
            copies += 1
            best[path.stem] = max(other, path, key=lambda image: image.stat().st_size)
    if copies:
        log.warning("%s: %d images come in more than one copy; the largest file of each is read", shown(root), copies)
    if not best:
        raise SourceError(f"{shown(root)} holds no {' or '.join(IMAGE_SUFFIXES)} image; give another root")
    return [best[stem] for stem in sorted(best)]


def _csv_rows(path: Path) -> Iterator[list[str]]:
    """The rows of a CSV file (possibly gzipped), header left out."""
    open_text = gzip.open if path.suffix == ".gz" else open
    try:
        with open_text(path, "rt", encoding="utf-8-sig", newline="") as file:
            rows = csv.reader(file)
            next(rows, None)
            yield from (row for row in rows if row)
    except (OSError, UnicodeDecodeError, csv.Error, EOFError) as error:
        raise SourceError(f"{shown(path)} must be a readable CSV file ({error})") from error


def _table_rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """(row number as a spreadsheet or an editor counts, row) of a CSV or JSON-lines file."""
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            if path.suffix == ".csv":
                for number, row in enumerate(csv.DictReader(file), start=2):
                    if None in row:
                        raise SourceError(
                            f"{shown(path)} row {number}: more cells than headers; quote cells with commas"
                        )
                    yield number, row
                return
            for number, line in enumerate(file, start=1):
                if not line.strip():
                    continue
                row = json.loads(line)
                if not isinstance(row, dict):
                    raise SourceError(f"{shown(path)} row {number}: must be a JSON object")
                yield number, row
    except (OSError, ValueError, csv.Error) as error:
        raise SourceError(f"{shown(path)} must be readable as {path.suffix[1:].upper()} ({error})") from error


def _need_columns(table: Path, rows: Iterable[dict[str, Any]], needed: Iterable[str]) -> None:
    first = next(iter(rows), None)
    if first is None:
        raise SourceError(f"{shown(table)} must hold at least one row")
    for name in needed:
        if name not in first:
            raise SourceError(f"{shown(table)} must have a column {name!r}{did_you_mean(name, first)}")
