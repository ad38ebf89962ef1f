"""CheXpert and CheXpert Plus: the same patients, told of by two sets of tables."""

import json
from collections.abc import Iterable, Iterator
from os.path import sep, splitext
from pathlib import Path

from synthcxr.data.sources.cells import chexpert_findings, condition, race_of, sex_of, view_of, years_of
from synthcxr.data.sources.files import DICOM_SUFFIXES, IMAGE_SUFFIXES, images_by, joined
from synthcxr.data.sources.row import PublishedRow, Rejected, SourceRow, SplitHint
from synthcxr.data.sources.tables import first_file, gzipped_too, one_file, table_rows
from synthcxr.data.sources.texts import refined, sections_text, told
from synthcxr.errors import SourceError, shown
from synthcxr.vocabulary import CHEXPERT_LABELS, View

LICENCE = "Stanford University Dataset Research Use Agreement"
SPLITS: dict[str, SplitHint] = {"train": "train", "valid": "validate"}
COLUMNS = ("Path", "Sex", "Age", "Frontal/Lateral", "AP/PA", *CHEXPERT_LABELS)
PLUS_COLUMNS = ("path_to_image", "sex", "age", "frontal_lateral", "ap_pa", "deid_patient_id")
PLUS_OPTIONAL = ("race", "ethnicity", "split", "section_findings", "section_impression", "report")
# Not findings_fixed: few reports have that section, and without it the labeller calls a study healthy.
PLUS_LABELS = ("impression_fixed.json", "impression_fixed.csv", "report_fixed.json", "report_fixed.csv")


def chexpert(root: Path) -> Iterator[SourceRow | Rejected]:
    """CheXpert v1.0 (Irvin et al. 2019), whole or small: train.csv, valid.csv, patient00001/study1/view1_frontal.jpg.

    Images are matched by patient, study and view, so that neither the prefix of Path nor the folders that the archives
    unpack to matter. Age 0 and sex Unknown are unknown. Labels: 1, 0, -1 (uncertain), blank (not mentioned).

    Raises:
        SourceError: no table, no image, a missing column, or a table that isn't one (named).
    """
    named = {split: first_file((root,), gzipped_too(f"{split}.csv")) for split in SPLITS}
    tables = {split: table for split, table in named.items() if table}
    if not tables:
        one_file(root, "chexpert", gzipped_too("train.csv"))  # says what is missing

    def build(path: Path, row: tuple[str, tuple[str, ...]]) -> SourceRow:
        split, (name, sex, age, side, view, *labels) = row
        patient, study, _ = image_key(name).split("/")
        return PublishedRow(
            path=path,
            id=image_key(name).replace("/", "-"),
            patient=f"chexpert-{patient}",
            study=f"{patient}-{study}",
            condition=condition(
                chexpert_findings(tuple(labels)), age=_age(age), sex=sex_of(sex), view=_view(side, view)
            ),
            source="chexpert",
            licence=LICENCE,
            split=SPLITS[split],
        )

    rows = (
        (table, number, image_key(cells[0]), (split, cells))
        for split, table in tables.items()
        for number, cells in table_rows(table, COLUMNS)
    )
    yield from joined(images_by(root, image_key), rows, build)


def chexpert_plus(root: Path) -> Iterator[SourceRow | Rejected]:
    """CheXpert Plus (Chambon et al. 2024): df_chexpert_plus_*.csv, PNG or DICOM files in the folders of path_to_image.

    Labels are optional, in the folder or one below: impression_fixed.json, or else report_fixed.json (JSON lines), or
    the same as CSV. A report is its findings and its impression, or else its whole text. Patients have the names that
    `chexpert` gives them, so that both sets divide them alike.

    Raises:
        SourceError: no table, no image, a missing column, or a table that isn't one (named).
    """
    table = one_file(root, "chexpert_plus", gzipped_too("df_chexpert_plus_*.csv"))
    below = sorted(path for path in root.iterdir() if path.is_dir())
    labels = _plus_labels(first_file((root, *below), PLUS_LABELS))

    def build(path: Path, cells: tuple[str, ...]) -> SourceRow:
        name, sex, age, side, view, patient, race, ethnicity, split, findings, impression, report = cells
        key = image_key(name)
        text = told(sections_text(findings, impression) or report)
        return PublishedRow(
            path=path,
            id=key.replace("/", "-"),
            patient=f"chexpert-{patient or key.split('/')[0]}",
            study="-".join(key.split("/")[:2]),
            condition=condition(
                refined(chexpert_findings(labels[key]) if key in labels else {}, text),
                age=_age(age),
                sex=sex_of(sex),
                race=race_of(race, ethnicity),
                view=_view(side, view),
            ),
            report=text.report,
            prompt=text.prompt,
            source="chexpert_plus",
            licence=LICENCE,
            split=SPLITS.get(split),
        )

    rows = (
        (table, number, image_key(cells[0]), cells) for number, cells in table_rows(table, PLUS_COLUMNS, PLUS_OPTIONAL)
    )
    yield from joined(images_by(root, image_key, IMAGE_SUFFIXES + DICOM_SUFFIXES), rows, build)


def image_key(path: str) -> str:
    """patient00001/study1/view1_frontal, of a path in a table or on disk."""
    return "/".join(splitext(path)[0].replace(sep, "/").rsplit("/", 3)[-3:])


def _age(cell: str) -> int | None:
    return years_of(cell) or None  # 0 is written for an age that isn't known


def _view(side: str, view: str) -> View | None:
    return "LATERAL" if side.strip().lower() == "lateral" else view_of(view)


def _plus_labels(path: Path | None) -> dict[str, tuple[str, ...]]:
    """The label cells of each image, by its key, in the order of CHEXPERT_LABELS."""
    if path is None:
        return {}
    csv_rows = (cells for _, cells in table_rows(path, ("path_to_image", *CHEXPERT_LABELS)))
    rows: Iterable[tuple[str, ...]] = csv_rows if path.suffix == ".csv" else _json_cells(path)
    once: dict[tuple[str, ...], tuple[str, ...]] = {}
    return {image_key(cells[0]): once.setdefault(cells[1:], cells[1:]) for cells in rows}


def _json_cells(path: Path) -> Iterator[tuple[str, ...]]:
    """path_to_image and the labels, as cells, of JSON lines with numbers and nulls."""
    names = ("path_to_image", *CHEXPERT_LABELS)
    try:
        with open(path, encoding="utf-8") as file:
            for number, line in enumerate(file, start=1):
                row = json.loads(line)
                if not isinstance(row, dict) or not row.keys() >= set(names):
                    raise SourceError(f"{shown(path)} row {number}: must be an object with {', '.join(names)}")
                yield tuple("" if row[name] is None else str(row[name]) for name in names)
    except (OSError, ValueError) as error:
        raise SourceError(f"{shown(path)} must be readable as JSON lines ({error})") from error
