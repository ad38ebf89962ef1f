"""Contact sheets for a report: real beside synthetic by finding, the most and least lifelike, and what lies nearest."""

import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from synthcxr.conditions import to_prompt
from synthcxr.data.curate.columns import column
from synthcxr.data.dataset import Dataset
from synthcxr.data.record import Record
from synthcxr.evaluation.neighbours import nearest
from synthcxr.images import contact_sheet, from_float, to_float, to_square
from synthcxr.runs import derive_seed
from synthcxr.vocabulary import Finding

THUMBNAIL, COLUMNS, QUALITY = 128, 8, 80  # pixels; pictures a row; of JPEG


@dataclass(frozen=True, eq=False)
class Images:
    """A dataset, some of its records, and their features (n, d)."""

    dataset: Dataset
    records: Sequence[Record]
    features: np.ndarray

    def thumbnail(self, row: int) -> np.ndarray:
        return from_float(to_square(to_float(self.dataset.read(self.records[row])), THUMBNAIL))


@dataclass(frozen=True)
class Sheet:
    """A picture with a title and one sentence; JPEG."""

    title: str
    caption: str
    jpeg: bytes


def sheets(real: Images, fake: Images, train: Images | None, seed: int) -> list[Sheet]:
    """All sheets of one synthetic dataset."""
    apart = nearest(fake.features, real.features).distance[:, 0]
    order = np.argsort(apart, kind="stable")
    made = [_by_finding(real, fake, finding, seed) for finding in Finding]
    for title, rows in (("Nearest to real images", order), ("Farthest from real images", order[::-1])):
        rows = rows[: 2 * COLUMNS]
        captions = [f"{apart[row]:.3g} {_told(fake.records[row])}" for row in rows]
        caption = (
            "By distance to the nearest real image in the extractor's features, which stands before what was asked."
        )
        made.append(sheet(title, caption, [fake.thumbnail(row) for row in rows], COLUMNS, captions))
    if train is not None:
        made.append(_beside_training(fake, train))
    return [one for one in made if one is not None]


def _by_finding(real: Images, fake: Images, finding: Finding, seed: int) -> Sheet | None:
    rng = np.random.default_rng(derive_seed(seed, finding.value))
    half = COLUMNS // 2
    chosen = []
    for images in (real, fake):
        there = np.flatnonzero(column(images.records, finding.value).codes == 0)
        chosen.append(rng.permutation(there)[: 2 * half])
    if not min(map(len, chosen)):
        return None
    empty = np.zeros((THUMBNAIL, THUMBNAIL), dtype=np.uint8)
    pictures, captions = [], []
    for start in range(0, 2 * half, half):
        for images, rows, kind in zip((real, fake), chosen, ("Real", "Synthetic"), strict=True):
            own = rows[start : start + half]
            pictures += [images.thumbnail(row) for row in own] + [empty] * (half - len(own))
            captions += [f"{kind}: {_told(images.records[row])}" for row in own] + [""] * (half - len(own))
    return sheet(finding.value, "Real, left; synthetic, right; drawn at random.", pictures, COLUMNS, captions)


def _beside_training(fake: Images, train: Images) -> Sheet:
    """Synthetic images, each with its nearest training image on the right: the closest first."""
    near = nearest(fake.features, train.features)
    rows = np.argsort(near.distance[:, 0], kind="stable")[: 2 * COLUMNS]
    pictures, captions = [], []
    for row in rows:
        pictures += [fake.thumbnail(row), train.thumbnail(near.index[row])]
        captions += ["synthetic", f"training, {near.distance[row, 0]:.3g}"]
    caption = "Synthetic, and the training image nearest to it; `synthcxr audit` says whether that is too near."
    return sheet("Nearest training images", caption, pictures, COLUMNS, captions)


def _told(record: Record) -> str:
    condition = record.condition
    return to_prompt(
        condition.model_copy(update={"text": None, "findings": dict(list(condition.findings.items())[:2])})
    )


def sheet(title: str, caption: str, pictures: list[np.ndarray], columns: int, captions: list[str]) -> Sheet:
    """A sheet of uint8 pictures; see `images.contact_sheet`."""
    buffer = io.BytesIO()
    Image.fromarray(contact_sheet(pictures, columns, captions)).save(buffer, "JPEG", quality=QUALITY, optimize=True)
    return Sheet(title, caption, buffer.getvalue())
