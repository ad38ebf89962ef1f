"""VinDr-CXR."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from synthcxr.conditions import FindingState
from synthcxr.data.sources.cells import STATES, condition
from synthcxr.data.sources.files import DICOM_SUFFIXES, IMAGE_SUFFIXES, images_by, joined
from synthcxr.data.sources.row import PublishedRow, Rejected, SourceRow, SplitHint
from synthcxr.data.sources.tables import first_file, gzipped_too, one_file, table_rows
from synthcxr.errors import ConditionError
from synthcxr.vocabulary import Finding

LICENCE = "PhysioNet Credentialed Health Data License 1.5.0"
SPLITS: dict[str, SplitHint] = {"train": "development", "test": "test"}
# Left out, since no finding says the same: aortic enlargement, calcification, enlarged pulmonary artery, interstitial
# lung disease, cyst, mediastinal shift, other lesion, COPD, tuberculosis, other diseases.
LABELS: dict[str, Finding] = {
    "No finding": Finding.NO_FINDING,
    "Atelectasis": Finding.ATELECTASIS,
    "Cardiomegaly": Finding.CARDIOMEGALY,
    "Clavicle fracture": Finding.FRACTURE,
    "Consolidation": Finding.CONSOLIDATION,
    "Edema": Finding.EDEMA,
    "Emphysema": Finding.EMPHYSEMA,
    "Infiltration": Finding.INFILTRATION,
    "Lung Opacity": Finding.LUNG_OPACITY,
    "Lung cavity": Finding.LUNG_LESION,
    "Lung tumor": Finding.LUNG_LESION,
    "Nodule/Mass": Finding.LUNG_LESION,
    "Pleural effusion": Finding.PLEURAL_EFFUSION,
    "Pleural thickening": Finding.PLEURAL_THICKENING,
    "Pneumonia": Finding.PNEUMONIA,
    "Pneumothorax": Finding.PNEUMOTHORAX,
    "Pulmonary fibrosis": Finding.FIBROSIS,
    "Rib fracture": Finding.FRACTURE,
}
OTHER_LABELS = tuple(LABELS)[1:]  # the competition's table lacks some


@dataclass
class _Votes:
    """What the radiologists who read an image said; `number` is the first row about it."""

    split: str
    number: int
    asked: Counter[Finding] = field(default_factory=Counter)
    seen: Counter[Finding] = field(default_factory=Counter)
    problem: str = ""


def vindr(root: Path) -> Iterator[SourceRow | Rejected]:
    """VinDr-CXR 1.0 (Nguyen et al. 2022): {train,test}/<image_id>.dicom, annotations/image_labels_{train,test}.csv.

    Each training image was read by three radiologists, each a row; of the test images there's one row of consensus.
    What a majority saw is present, what a minority saw is uncertain, what nobody saw is absent. All images are PA. The
    publisher names no patients, so that each image is one; age and sex come from the header. Images re-encoded as PNG
    or JPEG are matched by stem, and lack both.

    Raises:
        SourceError: no table, no image, a missing column, or a table that isn't one (named).
    """
    homes = (root / "annotations", root)
    named = {split: first_file(homes, gzipped_too(f"image_labels_{split}.csv")) for split in SPLITS}
    tables = {split: table for split, table in named.items() if table}
    if not tables:
        one_file(root, "vindr", gzipped_too("annotations/image_labels_train.csv"))  # says what is missing

    def build(path: Path, votes: _Votes) -> SourceRow:
        return PublishedRow(
            path=path,
            id=path.stem,
            patient=f"vindr-{path.stem}",
            study=path.stem,
            condition=condition(_findings(votes), view="PA"),
            source="vindr",
            licence=LICENCE,
            split=SPLITS[votes.split],
        )

    rows = (
        (table, votes.number, image, votes)
        for split, table in tables.items()
        for image, votes in _votes(table, split).items()
    )
    yield from joined(images_by(root, suffixes=DICOM_SUFFIXES + IMAGE_SUFFIXES), rows, build)


def _votes(table: Path, split: str) -> dict[str, _Votes]:
    images: dict[str, _Votes] = {}
    for number, (image, *cells) in table_rows(table, ("image_id", "No finding"), OTHER_LABELS):
        votes = images.setdefault(image, _Votes(split, number))
        for name, cell in zip(LABELS, cells, strict=True):
            if cell not in ("", "0", "1", "0.0", "1.0"):
                votes.problem = f"{name} = {cell!r} must be 0, 1 or blank"
        # A reader sees a finding that has two columns where one of them says so.
        votes.asked.update({LABELS[name] for name, cell in zip(LABELS, cells, strict=True) if cell})
        votes.seen.update({LABELS[name] for name, cell in zip(LABELS, cells, strict=True) if cell.startswith("1")})
    return images


def _findings(votes: _Votes) -> dict[Finding, FindingState]:
    if votes.problem:
        raise ConditionError(votes.problem)
    findings = {}
    for finding, readers in votes.asked.items():
        seen = votes.seen[finding]
        findings[finding] = STATES["present" if 2 * seen > readers else "uncertain" if seen else "absent"]
    return findings
