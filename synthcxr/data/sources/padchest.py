"""PadChest."""

import re
from collections.abc import Iterator
from pathlib import Path

from synthcxr.conditions import MAX_AGE, FindingState
from synthcxr.data.sources.cells import STATES, condition, sex_of
from synthcxr.data.sources.files import images_by, joined, stem_of
from synthcxr.data.sources.row import Rejected, SourceRow
from synthcxr.data.sources.tables import gzipped_too, one_file, table_rows
from synthcxr.errors import ConditionError, did_you_mean
from synthcxr.vocabulary import Finding, View

LICENCE = "PadChest Dataset Research Use Agreement (BIMCV)"
COLUMNS = (
    "ImageID",
    "StudyID",
    "PatientID",
    "PatientBirth",
    "PatientSex_DICOM",
    "StudyDate_DICOM",
    "Projection",
    "Labels",
)
VIEWS: dict[str, View | None] = {
    "PA": "PA", "AP": "AP", "AP_horizontal": "AP", "L": "LATERAL", "UNK": None, "": None,
}  # fmt: skip
NO_CHEST_VIEWS = {"COSTAL": "a view of the ribs", "EXCLUDE": "excluded by the publisher"}

# A term stands for what is above it in the publisher's tree. Terms left out (scoliosis, COPD signs, aortic elongation,
# ...) say nothing in this vocabulary.
LABELS: dict[Finding, tuple[str, ...]] = {
    Finding.NO_FINDING: ("normal",),
    Finding.ENLARGED_CARDIOMEDIASTINUM: (
        "mediastinal enlargement", "superior mediastinal enlargement", "mediastinal mass",
    ),
    Finding.CARDIOMEGALY: ("cardiomegaly",),
    Finding.LUNG_LESION: ("cavitation", "lung metastasis", "lepidic adenocarcinoma"),
    Finding.LUNG_OPACITY: ("increased density",),
    Finding.EDEMA: ("pulmonary edema",),
    Finding.CONSOLIDATION: ("consolidation", "air bronchogram"),
    Finding.PNEUMONIA: ("pneumonia", "atypical pneumonia"),
    Finding.ATELECTASIS: (
        "atelectasis", "atelectasis basal", "laminar atelectasis", "lobar atelectasis", "round atelectasis",
        "segmental atelectasis", "total atelectasis",
    ),
    Finding.PNEUMOTHORAX: ("pneumothorax", "hydropneumothorax"),
    Finding.PLEURAL_EFFUSION: (
        "pleural effusion", "loculated pleural effusion", "loculated fissural effusion", "hydropneumothorax", "empyema",
        "hemothorax",
    ),
    Finding.PLEURAL_OTHER: ("pleural mass", "pleural plaques", "calcified pleural plaques"),
    Finding.FRACTURE: (
        "fracture", "callus rib fracture", "clavicle fracture", "humeral fracture", "rib fracture",
        "vertebral fracture",
    ),
    Finding.SUPPORT_DEVICES: (
        "electrical device", "dual chamber device", "single chamber device", "dai", "catheter", "nsg tube",
        "tracheostomy tube", "ventriculoperitoneal drain tube", "artificial heart valve",
        "artificial aortic heart valve", "artificial mitral heart valve",
    ),
    Finding.INFILTRATION: (
        "infiltrates", "interstitial pattern", "alveolar pattern", "ground glass pattern", "miliary opacities",
        "reticular interstitial pattern", "reticulonodular interstitial pattern",
    ),
    Finding.MASS: ("mass", "pulmonary mass"),
    Finding.NODULE: ("nodule", "multiple nodules"),
    Finding.EMPHYSEMA: ("emphysema",),
    Finding.FIBROSIS: ("pulmonary fibrosis", "asbestosis signs", "post radiotherapy changes"),
    Finding.PLEURAL_THICKENING: ("pleural thickening", "apical pleural thickening", "calcified pleural thickening"),
    Finding.HERNIA: ("hiatal hernia",),
    Finding.CHEST_TUBE: ("chest drain tube",),
    Finding.ENDOTRACHEAL_TUBE: ("endotracheal tube",),
    Finding.CENTRAL_LINE: (
        "central venous catheter", "central venous catheter via jugular vein",
        "central venous catheter via subclavian vein", "central venous catheter via umbilical vein",
        "reservoir central venous catheter",
    ),
    Finding.PACEMAKER: ("pacemaker",),
}  # fmt: skip
_DEVICES = (Finding.CHEST_TUBE, Finding.ENDOTRACHEAL_TUBE, Finding.CENTRAL_LINE, Finding.PACEMAKER)
_TERM = r"""(?:'[^']*'|"[^"]*")"""
_LIST = re.compile(rf"\[\s*(?:{_TERM}(?:\s*,\s*{_TERM})*\s*)?\]")


def padchest(root: Path) -> Iterator[SourceRow | Rejected]:
    """PadChest (Bustos et al. 2020): PADCHEST_chest_x_ray_images_labels*.csv[.gz], 16-bit PNGs in numbered folders.

    Images are matched by stem. Labels list what was found: a term of the list is present, others are unknown. The age
    is the year of the study less that of birth; None and blank are unknown. Views of the ribs and what the publisher
    excludes are rejected by rule. Reports are stems of Spanish words: they're left out.

    Raises:
        SourceError: no table, no image, a missing column, or a table that isn't one (named).
    """
    table = one_file(root, "padchest", gzipped_too("PADCHEST_chest_x_ray_images_labels*.csv"))

    def build(path: Path, cells: tuple[str, ...]) -> SourceRow | Rejected:
        _, study, patient, birth, sex, date, projection, labels = ("" if cell == "None" else cell for cell in cells)
        if projection in NO_CHEST_VIEWS:
            return Rejected(path=path, reason=f"Projection = {projection}: {NO_CHEST_VIEWS[projection]}", by_rule=True)
        if projection not in VIEWS:
            rule = f"must be one of {', '.join((*filter(None, VIEWS), *NO_CHEST_VIEWS))}"
            raise ConditionError(f"Projection = {projection!r} {rule}{did_you_mean(projection, VIEWS)}")
        return SourceRow(
            path=path,
            id=path.stem,
            patient=f"padchest-{patient or path.stem}",
            study=study or path.stem,
            condition=condition(_findings(labels), age=_age(birth, date), sex=sex_of(sex), view=VIEWS[projection]),
            source="padchest",
            licence=LICENCE,
        )

    rows = ((table, number, stem_of(cells[0]), cells) for number, cells in table_rows(table, COLUMNS))
    yield from joined(images_by(root), rows, build)


def label_terms(cell: str) -> list[str]:
    """The terms of a list as Python writes it, in lower case: "['normal', ' Chilaiditi sign']". Nothing is evaluated.

    Raises:
        ConditionError: it's no such list.
    """
    if cell in ("", "nan"):
        return []
    if not _LIST.fullmatch(cell.strip()):
        raise ConditionError(f"Labels = {cell[:80]!r} must be a list of quoted terms, such as ['normal']")
    terms = (quoted[1:-1].strip().lower() for quoted in re.findall(_TERM, cell))
    return [term for term in terms if term]


def _findings(cell: str) -> dict[Finding, FindingState]:
    terms = set(label_terms(cell))
    found = {finding: STATES["present"] for finding, names in LABELS.items() if terms & set(names)}
    if len(found) > 1:
        found.pop(Finding.NO_FINDING, None)
    if any(device in found for device in _DEVICES):
        found[Finding.SUPPORT_DEVICES] = STATES["present"]
    return found


def _age(birth: str, date: str) -> int | None:
    """Years; birth is written 1932.0, the date 20100523. A year that can't be is unknown."""
    born, studied = birth[:4], date[:4]
    if not (born.isdecimal() and studied.isdecimal()):
        return None
    age = int(studied) - int(born)
    return age if 0 <= age <= MAX_AGE else None
