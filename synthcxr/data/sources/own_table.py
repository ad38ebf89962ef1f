"""Tables of one's own: metadata.csv or metadata.jsonl, as the folder and DICOM sources take them."""

import csv
import json
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from synthcxr.conditions import Condition, parse_prompt
from synthcxr.data.sources.tables import check_columns
from synthcxr.data.sources.texts import clean
from synthcxr.errors import ConditionError, SourceError, did_you_mean, shown

log = logging.getLogger(__name__)

TABLES = ("metadata.csv", "metadata.jsonl")
COLUMNS = ("patient", "study", "age", "sex", "race", "view", "findings", "text", "prompt", "report", "licence")


@dataclass(frozen=True)
class Entry:
    """What one row says. `key` is its cell in the key column."""

    table: Path
    number: int
    key: str
    patient: str | None
    study: str | None
    condition: Condition
    report: str | None
    prompt: str | None
    licence: str

    @property
    def where(self) -> str:
        """File and row, as messages name them."""
        return f"{shown(self.table)} row {self.number}"


def columns_of(table: Path) -> set[str]:
    """The columns of a table, which are those of its first row; a likely misspelling is logged.

    Raises:
        SourceError: it has no row.
    """
    _, row = next(_rows(table), (0, None))
    if row is None:
        raise SourceError(f"{shown(table)} must hold at least one row")
    for name in sorted(row.keys() - set(COLUMNS)):
        if hint := did_you_mean(name, set(COLUMNS) - row.keys()):
            log.warning("%s: column %r isn't read%s", shown(table), name, hint)
    return set(row)


def entries(table: Path, key: str) -> Iterator[Entry]:
    """The rows of a table, free text without identifiers.

    Raises:
        SourceError: a missing key column or a value that isn't one: file, row and field are named.
    """
    for index, (number, row) in enumerate(_rows(table)):
        if index == 0:
            check_columns(table, list(row), (key,))
        where = f"{shown(table)} row {number}"
        name = _text(row, key)
        if name is None:
            raise SourceError(f"{where}: {key} is blank; say which file the row is about")
        try:
            condition = _condition(row)
        except ConditionError as error:
            raise SourceError(f"{where}: {error}") from error
        yield Entry(
            table=table,
            number=number,
            key=name,
            patient=_text(row, "patient"),
            study=_text(row, "study"),
            condition=condition,
            report=clean(_text(row, "report")),
            prompt=clean(_text(row, "prompt")),
            licence=_text(row, "licence") or "not stated",
        )


def inside(root: Path, entry: Entry) -> Path:
    """The file that an entry names, relative to the folder; SourceError where the name leads out of it."""
    relative = Path(entry.key)
    if relative.is_absolute() or ".." in relative.parts:
        raise SourceError(f"{entry.where}: file_name = {entry.key!r} must be a path inside {shown(root)}")
    return relative


def _rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
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


def _condition(row: dict[str, Any]) -> Condition:
    prompt = clean(_text(row, "prompt"))
    fields: dict[str, Any] = dict(parse_prompt(prompt)) if prompt else {}
    for name in ("sex", "race", "view"):
        if value := _text(row, name):
            fields[name] = value
    if text := clean(_text(row, "text")):
        fields["text"] = text
    if age := _text(row, "age"):
        # Tables with blanks often hold whole numbers as 72.0.
        fields["age"] = age.removesuffix(".0")
    findings = row.get("findings")
    if isinstance(findings, str):
        findings = [name.strip() for name in findings.split("|") if name.strip()]
    if findings:
        fields["findings"] = findings
    return Condition(**fields)


def _text(row: dict[str, Any], name: str) -> str | None:
    value = row.get(name)
    return None if value is None else str(value).strip() or None
