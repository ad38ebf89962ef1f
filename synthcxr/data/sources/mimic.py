"""MIMIC-CXR-JPG."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from synthcxr.conditions import MAX_AGE, FindingState
from synthcxr.data.sources.cells import chexpert_findings, condition, race_of, sex_of, view_of, years_of
from synthcxr.data.sources.files import images_by, joined
from synthcxr.data.sources.row import PublishedRow, Rejected, SourceRow, SplitHint
from synthcxr.data.sources.tables import first_file, gzipped_too, one_file, table_rows
from synthcxr.data.sources.texts import refined, told
from synthcxr.errors import ConditionError, shown
from synthcxr.vocabulary import CHEXPERT_LABELS, Finding, Race, Sex, View

LICENCE = "PhysioNet Credentialed Health Data License 1.5.0"
COLUMNS = ("dicom_id", "subject_id", "study_id", "ViewPosition")
OPTIONAL = ("StudyDate", "ViewCodeSequence_CodeMeaning")
VIEW_NAMES: dict[str, View] = {
    "postero-anterior": "PA",
    "antero-posterior": "AP",
    **dict.fromkeys(("lateral", "left lateral", "right lateral"), "LATERAL"),
}
SPLITS: dict[str, SplitHint] = {"train": "train", "validate": "validate", "test": "test"}


class _Patient(NamedTuple):
    sex: Sex | None
    anchor_age: int | None
    anchor_year: int | None


def mimic_cxr_jpg(root: Path) -> Iterator[SourceRow | Rejected]:
    """MIMIC-CXR-JPG (Johnson et al. 2019): mimic-cxr-2.0.0-*.csv[.gz], files/p10/p10000032/s50414267/<dicom_id>.jpg.

    Beside the metadata table, all is optional, in the folder or in mimic-iv/: labels of the CheXpert labeller, or else
    of NegBio; the split; reports (files/p10/p10000032/s50414267.txt, or below mimic-cxr-reports/); patients and
    admissions of MIMIC-IV for sex, age and race. An age is the anchor's, moved to the year of the study; those above 89
    stand at 91 in the anchor. A race on which a patient's admissions disagree is unknown. Images are matched by stem.

    Raises:
        SourceError: no metadata table, no image, a missing column, or a table that isn't one (named).
    """
    table = one_file(root, "mimic_cxr_jpg", gzipped_too("mimic-cxr-*-metadata.csv"))
    homes = (root, root / "mimic-iv", root / "mimic-iv" / "hosp", root / "hosp")
    labels, splits = _labels(root), _splits(root)
    patients, races = _patients(homes), _races(homes)

    def build(path: Path, cells: tuple[str, ...]) -> SourceRow:
        image, subject, study, view, date, view_name = cells
        patient = patients.get(subject)
        report = told(_report(root, subject, study))
        return PublishedRow(
            path=path,
            id=image,
            patient=f"mimic-p{subject}",
            study=f"s{study}",
            condition=condition(
                refined(_study_findings(labels, study), report),
                age=_age(patient, date) if patient else None,
                sex=patient.sex if patient else None,
                race=races.get(subject),
                view=view_of(view) if view.strip() else VIEW_NAMES.get(view_name.strip().lower()),
            ),
            report=report.report,
            prompt=report.prompt,
            source="mimic_cxr_jpg",
            licence=LICENCE,
            split=splits.get(subject),
        )

    rows = ((table, number, cells[0], cells) for number, cells in table_rows(table, COLUMNS, OPTIONAL))
    yield from joined(images_by(root), rows, build)


def _labels(root: Path) -> dict[str, tuple[str, ...]]:
    """The label cells of each study, in the order of CHEXPERT_LABELS."""
    table = first_file((root,), gzipped_too("mimic-cxr-*-chexpert.csv") + gzipped_too("mimic-cxr-*-negbio.csv"))
    if table is None:
        return {}
    once: dict[tuple[str, ...], tuple[str, ...]] = {}  # few studies differ: kept once, they take a tenth
    rows = (cells for _, cells in table_rows(table, ("study_id", *CHEXPERT_LABELS)))
    return {cells[0]: once.setdefault(cells[1:], cells[1:]) for cells in rows}


def _study_findings(labels: dict[str, tuple[str, ...]], study: str) -> Mapping[Finding, FindingState]:
    return chexpert_findings(labels[study]) if study in labels else {}


def _splits(root: Path) -> dict[str, SplitHint]:
    """The publisher's split of each patient."""
    table = first_file((root,), gzipped_too("mimic-cxr-*-split.csv"))
    rows = table_rows(table, ("subject_id", "split")) if table else ()
    return {subject: SPLITS[split] for _, (subject, split) in rows if split in SPLITS}


def _patients(homes: tuple[Path, ...]) -> dict[str, _Patient]:
    table = first_file(homes, gzipped_too("patients.csv"))
    rows = table_rows(table, ("subject_id", "gender", "anchor_age", "anchor_year")) if table else ()
    return {subject: _Patient(sex_of(sex), years_of(age), _year(year)) for _, (subject, sex, age, year) in rows}


def _races(homes: tuple[Path, ...]) -> dict[str, Race]:
    table = first_file(homes, gzipped_too("admissions.csv"))
    rows = table_rows(table, ("subject_id", "race")) if table else ()
    races: dict[str, Race | None] = {}
    for _, (subject, text) in rows:
        if race := race_of(text):
            races[subject] = race if races.get(subject, race) == race else None
    return {subject: race for subject, race in races.items() if race}


def _year(cell: str) -> int | None:
    return int(cell[:4]) if cell[:4].isdecimal() else None


def _age(patient: _Patient, date: str) -> int | None:
    """Years at the study; dates are moved by an unknown span, the same for all of a patient."""
    year = _year(date)
    if year is None or patient.anchor_age is None or patient.anchor_year is None:
        return None
    age = patient.anchor_age + year - patient.anchor_year
    return age if 0 <= age <= MAX_AGE else None


def _report(root: Path, subject: str, study: str) -> str | None:
    name = Path("files", f"p{subject[:2]}", f"p{subject}", f"s{study}.txt")
    for home in (root, root / "mimic-cxr-reports"):
        try:
            return (home / name).read_text(encoding="utf-8", errors="replace")
        except FileNotFoundError:
            continue
        except OSError as error:
            raise ConditionError(f"report {shown(home / name)} can't be read ({error.strerror})") from error
    return None
