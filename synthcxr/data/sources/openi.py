"""OpenI: the Indiana University collection, as its publisher gives it and as a competition site does."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

from synthcxr.data.sources.cells import condition
from synthcxr.data.sources.files import DICOM_SUFFIXES, IMAGE_SUFFIXES, images_by, joined, stem_of, walk
from synthcxr.data.sources.row import Rejected, SourceRow
from synthcxr.data.sources.tables import gzipped_too, one_file, table_rows
from synthcxr.data.sources.texts import sections_text, told
from synthcxr.errors import ConditionError, SourceError, shown
from synthcxr.vocabulary import SEX_WORDS, Sex, View

LICENCE = "CC BY-NC-ND 4.0"
VIEWS: dict[str, View | None] = {"Frontal": None, "Lateral": "LATERAL", "": None}  # PA and AP aren't told apart
_SEX = re.compile(
    r"(?i)\byears?[- ]old\s+(?:\w+\s+)?(" + "|".join(word for word in SEX_WORDS if len(word) > 1) + r")\b"
)


@dataclass(frozen=True)
class _Report:
    uid: str
    indication: str
    findings: str
    impression: str


def openi(root: Path) -> Iterator[SourceRow | Rejected]:
    """OpenI, the Indiana University collection (Demner-Fushman et al. 2016): one XML file a report, PNG or DICOM files.

    Or the same as two tables, indiana_reports.csv and indiana_projections.csv, which alone tell frontal images from
    lateral ones: from XML, no view is known. Images are matched by the ids of parentImage (CXR1_1_IM-0001-3001), with
    or without what a distributor put around them (1_IM-0001-3001.dcm.png). Findings are read from the report, sex from
    the indication where that says it; ages are redacted as XXXX. A report is taken for a patient: no others are named.

    Raises:
        SourceError: neither form, both, no image, or a report that isn't one (named).
    """
    tables = sorted(root.glob("indiana_*.csv*"))
    files = sorted(path for path in walk(root) if path.lower().endswith(".xml")) if root.is_dir() else []
    if files and tables:
        raise SourceError(f"{shown(root)} must hold XML reports or indiana_*.csv, not both; move one of them away")
    if not files and not tables:
        one_file(root, "openi", ("**/*.xml", "indiana_reports.csv"))  # says what is missing
    rows = _from_tables(root) if tables else _from_files(files)
    yield from joined(images_by(root, image_key, IMAGE_SUFFIXES + DICOM_SUFFIXES), rows, _build)


def image_key(path: str) -> str:
    """1_IM-0001-3001, of an id or a file name in any of the forms."""
    return re.sub(r"^CXR\d+_(?=\d+_)|^CXR|\.dcm$", "", stem_of(path))


def _build(path: Path, cells: tuple[_Report, str]) -> SourceRow:
    report, projection = cells
    if projection not in VIEWS:
        raise ConditionError(f"projection = {projection!r} must be Frontal, Lateral or blank")
    text = told(sections_text(report.findings, report.impression))
    return SourceRow(
        path=path,
        id=re.sub(r"[^A-Za-z0-9_-]+", "-", image_key(path.name)),
        patient=f"openi-{report.uid}",
        study=f"CXR{report.uid}",
        condition=condition(text.findings or {}, sex=_sex(report.indication), view=VIEWS[projection]),
        report=text.report,
        prompt=text.prompt,
        source="openi",
        licence=LICENCE,
    )


def _from_tables(root: Path) -> Iterator[tuple[Path, int, str, tuple[_Report, str]]]:
    reports_table = one_file(root, "openi", gzipped_too("indiana_reports.csv"))
    table = one_file(root, "openi", gzipped_too("indiana_projections.csv"))
    columns = ("uid", "indication", "findings", "impression")
    reports = {cells[0]: _Report(*cells) for _, cells in table_rows(reports_table, columns)}
    for number, (uid, name, projection) in table_rows(table, ("uid", "filename", "projection")):
        report = reports.get(uid, _Report(uid, "", "", ""))
        yield table, number, image_key(name), (report, projection.strip())


def _from_files(files: list[str]) -> Iterator[tuple[Path, int, str, tuple[_Report, str]]]:
    for name in files:
        path = Path(name)
        report, images = _read_xml(path)
        for image in images:
            yield path, 1, image_key(image), (report, "")


def _read_xml(path: Path) -> tuple[_Report, list[str]]:
    """A report and the ids of its images."""
    try:
        data = path.read_bytes()
        # No report declares entities, the one thing with which a small file could become a large one.
        if b"<!" in data.replace(b"<!--", b""):
            raise SourceError(f"{shown(path)}: an OpenI report has no DOCTYPE and no ENTITY; remove the file")
        tree = ElementTree.fromstring(data)
    except (OSError, ElementTree.ParseError) as error:
        raise SourceError(f"{shown(path)} must be a readable XML report ({error})") from error
    uid = tree.find("uId")
    if uid is None or not uid.get("id"):
        raise SourceError(f"{shown(path)}: uId id is missing; an OpenI report has one, such as CXR10")
    texts = {part.get("Label", ""): (part.text or "").strip() for part in tree.iter("AbstractText")}
    said = (texts.get(label, "") for label in ("INDICATION", "FINDINGS", "IMPRESSION"))
    images = [image.get("id", "") for image in tree.iter("parentImage")]
    return _Report(uid.get("id").removeprefix("CXR"), *said), images


def _sex(indication: str) -> Sex | None:
    match = _SEX.search(indication)
    return SEX_WORDS[match[1].lower()] if match else None
