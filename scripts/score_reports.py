"""How well reports are read: the findings of the OpenI reports against the terms that two coders gave them by hand.

python scripts/score_reports.py ROOT

ROOT is a folder, searched for `*.xml` and `reports*.tgz` (which stays packed), or one such archive. Reports are told
apart by a hash of their id: one half was looked at while the reader was written, the other wasn't.

What a term (Demner-Fushman et al. 2016; a heading with qualifiers, such as "Opacity/lung/base/left") means:

- "Cardiac Shadow/enlarged" is cardiomegaly: it codes an enlarged cardiac silhouette.
- "Opacity", "Density" and "Airspace Disease" are lung opacity, but not outside of the lung (bone, breast, fat, valves).
- "Cicatrix" of the lung or pleura is fibrosis: a scar is focal fibrosis.
- "Thickening" is pleural thickening where it's of the pleura.
- "Catheters, Indwelling", "Tube, Inserted", "Medical Device" and "Implanted Medical Device" are support devices; wires
  and clips of surgery ("Surgical Instruments"), stents and spinal fusions are not.
- "normal" is no finding; any other term says that something was found, be it outside of the vocabulary.
- "Pulmonary Congestion" and "Heart Failure" aren't edema, chronic obstructive disease isn't emphysema, granulomas and
  calcifications aren't nodules, rib and vertebral "Deformity" isn't a fracture: each has a term of its own.
- "No Indexing" says that a report wasn't coded: it's left out.

A coded finding is present, any other isn't. A finding read as uncertain counts as not read: of the hedges, the coders
took up "probable" and mostly "X or Y", and mostly left "may represent", "possible" and "question of" uncoded. The last
column counts it as read all the same.
"""

import hashlib
import re
import sys
import tarfile
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

import numpy as np

from synthcxr.conditions import FindingState
from synthcxr.reports import findings_in
from synthcxr.vocabulary import Finding

MIN_POSITIVES = 20  # labels with fewer in all reports are listed, and not averaged
RESAMPLES = 1000

HEADINGS: dict[str, tuple[Finding, ...]] = {
    "normal": (Finding.NO_FINDING,),
    "Cardiomegaly": (Finding.CARDIOMEGALY,),
    "Opacity": (Finding.LUNG_OPACITY,),
    "Density": (Finding.LUNG_OPACITY,),
    "Airspace Disease": (Finding.LUNG_OPACITY,),
    "Pulmonary Edema": (Finding.EDEMA,),
    "Consolidation": (Finding.CONSOLIDATION,),
    "Pneumonia": (Finding.PNEUMONIA,),
    "Pulmonary Atelectasis": (Finding.ATELECTASIS,),
    "Pneumothorax": (Finding.PNEUMOTHORAX,),
    "Hydropneumothorax": (Finding.PNEUMOTHORAX, Finding.PLEURAL_EFFUSION),
    "Pleural Effusion": (Finding.PLEURAL_EFFUSION,),
    "Fractures, Bone": (Finding.FRACTURE,),
    "Infiltrate": (Finding.INFILTRATION,),
    "Mass": (Finding.MASS,),
    "Nodule": (Finding.NODULE,),
    "Emphysema": (Finding.EMPHYSEMA,),
    "Pulmonary Emphysema": (Finding.EMPHYSEMA,),
    "Bullous Emphysema": (Finding.EMPHYSEMA,),
    "Pulmonary Fibrosis": (Finding.FIBROSIS,),
    "Cicatrix": (Finding.FIBROSIS,),
    "Hernia, Hiatal": (Finding.HERNIA,),
    "Catheters, Indwelling": (Finding.SUPPORT_DEVICES,),
    "Tube, Inserted": (Finding.SUPPORT_DEVICES,),
    "Medical Device": (Finding.SUPPORT_DEVICES,),
    "Implanted Medical Device": (Finding.SUPPORT_DEVICES,),
}
QUALIFIED: dict[tuple[str, str], tuple[Finding, ...]] = {
    ("Cardiac Shadow", "enlarged"): (Finding.CARDIOMEGALY,),
    ("Thickening", "pleura"): (Finding.PLEURAL_THICKENING,),
}
LUNG_ONLY = frozenset((Finding.LUNG_OPACITY, Finding.MASS, Finding.NODULE, Finding.FIBROSIS))
NOT_LUNG = frozenset(
    ("abdomen", "adipose tissue", "aorta", "breast", "mediastinum", "mitral valve", "neck", "ribs", "spine", "sternum")
)
LABELS = tuple(dict.fromkeys(finding for found in (*HEADINGS.values(), *QUALIFIED.values()) for finding in found))


@dataclass(frozen=True)
class Coded:
    """A report with the terms it was coded by; `seen` ones were looked at in writing the reader."""

    id: str
    text: str
    terms: tuple[str, ...]

    @property
    def seen(self) -> bool:
        return hashlib.sha256(self.id.encode()).digest()[-1] % 2 == 0


@dataclass(frozen=True)
class Score:
    """Of one label in one set of reports, n of them positive; `hedged_f1` counts what is read as uncertain too."""

    label: Finding
    n: int
    precision: float
    recall: float
    f1: float
    hedged_f1: float


def coded_findings(terms: Iterable[str]) -> set[Finding]:
    """The findings that the terms of one report stand for."""
    found: set[Finding] = set()
    for term in terms:
        heading, *qualifiers = (part.strip() for part in term.split("/"))
        named = set(HEADINGS.get(heading, ()))
        named.update(*(QUALIFIED.get((heading, qualifier), ()) for qualifier in qualifiers))
        found |= named - LUNG_ONLY if NOT_LUNG.intersection(qualifiers) else named
    return found


def read_coded(root: Path) -> list[Coded]:
    """The coded reports of a folder or archive, in the order of their ids.

    Raises:
        SystemExit: there are none.
    """
    reports = [_coded(data) for data in _documents(root)]
    if not reports:
        raise SystemExit(f"error: {root} must hold OpenI reports (*.xml, or packed as reports*.tgz)")
    return sorted((one for one in reports if "No Indexing" not in one.terms), key=lambda one: one.id)


def _documents(root: Path) -> Iterator[bytes]:
    yield from (path.read_bytes() for path in root.rglob("*.xml"))
    for archive in [root] if root.is_file() else root.rglob("reports*.tgz"):
        with tarfile.open(archive) as packed:
            yield from (packed.extractfile(member).read() for member in packed if member.name.endswith(".xml"))


def _coded(data: bytes) -> Coded:
    tree = ElementTree.fromstring(data)
    parts = [f"{part.get('Label')}: {part.text or ''}" for part in tree.iter("AbstractText")]
    terms = tuple(term.text or "" for term in tree.findall("MeSH/major"))
    return Coded(tree.find("uId").get("id"), "\n".join(parts), terms)


def truth_and_read(reports: list[Coded]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """bool (reports, LABELS): coded; read as present; read as present or uncertain."""
    truth = [coded_findings(report.terms) for report in reports]
    read = [findings_in(report.text) for report in reports]
    absent = FindingState(state="absent")

    def table(states: tuple[str, ...]) -> np.ndarray:
        return np.array([[found.get(label, absent).state in states for label in LABELS] for found in read])

    coded = np.array([[label in found for label in LABELS] for found in truth])
    return coded, table(("present",)), table(("present", "uncertain"))


def f1_scores(truth: np.ndarray, read: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """2 TP / (positives + read), (resamples, LABELS), of reports weighted by (resamples, reports); 0 where 0 / 0."""
    both, either = weights @ (truth & read), weights @ truth + weights @ read
    return 2 * both / np.maximum(either, 1)


def scores(truth: np.ndarray, read: np.ndarray, hedged: np.ndarray) -> list[Score]:
    """One score a label, in the order of `LABELS`."""
    once = np.ones((1, len(truth)), dtype=np.int64)
    hits = (truth & read).sum(0)
    precision, recall = hits / np.maximum(read.sum(0), 1), hits / np.maximum(truth.sum(0), 1)
    columns = (truth.sum(0), precision, recall, f1_scores(truth, read, once)[0], f1_scores(truth, hedged, once)[0])
    return [Score(*row) for row in zip(LABELS, *(column.tolist() for column in columns), strict=True)]


def macro_interval(truth: np.ndarray, read: np.ndarray, averaged: np.ndarray, seed: int = 0) -> tuple[float, float]:
    """95% bootstrap interval of the macro-F1 over the labels `averaged`, resampling reports."""
    rng = np.random.default_rng(seed)
    weights = rng.multinomial(len(truth), np.full(len(truth), 1 / len(truth)), size=RESAMPLES)
    macro = f1_scores(truth, read, weights)[:, averaged].mean(1)
    return tuple(np.quantile(macro, (0.025, 0.975)).tolist())


def _show(title: str, tables: tuple[np.ndarray, np.ndarray, np.ndarray], averaged: np.ndarray) -> None:
    rows = scores(*tables)
    kept = [row for row, keep in zip(rows, averaged, strict=True) if keep]
    print(f"\n{title}: {len(tables[0])} reports")
    print(f"{'label':<24}{'n':>5}{'precision':>11}{'recall':>8}{'F1':>7}{'F1, hedged too':>16}")
    for row in rows:
        figures = f"{row.precision:>11.2f}{row.recall:>8.2f}{row.f1:>7.3f}{row.hedged_f1:>16.3f}"
        print(f"{row.label:<24}{row.n:>5}{figures}{'' if row in kept else '  not averaged'}")
    if kept:
        low, high = macro_interval(tables[0], tables[1], averaged)
        macro, hedged = np.mean([row.f1 for row in kept]), np.mean([row.hedged_f1 for row in kept])
        print(f"macro-F1 over {len(kept)} labels: {macro:.3f} [{low:.3f}, {high:.3f}]; hedged too: {hedged:.3f}")


def main(root: Path) -> None:
    reports = read_coded(root)
    start = time.process_time()
    tables = truth_and_read(reports)
    print(f"{len(reports)} coded reports read in {time.process_time() - start:.1f} s (one process)")
    averaged = tables[0].sum(0) >= MIN_POSITIVES
    seen = np.array([report.seen for report in reports])
    for title, chosen in (("seen in development", seen), ("unseen", ~seen), ("all", seen | True)):
        if chosen.any():
            _show(title, tuple(table[chosen] for table in tables), averaged)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        raise SystemExit(re.search(r"python .*", __doc__)[0])
    main(Path(sys.argv[1]))
