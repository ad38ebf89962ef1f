"""NIH ChestX-ray14."""

from collections.abc import Iterator
from pathlib import Path

from synthcxr.conditions import MAX_AGE, NIH_LABELS
from synthcxr.data.sources.cells import condition, named_findings, sex_of, view_of
from synthcxr.data.sources.files import images_by, joined, stem_of
from synthcxr.data.sources.row import PublishedRow, Rejected, SourceRow, SplitHint
from synthcxr.data.sources.tables import csv_rows, gzipped_too, one_file
from synthcxr.errors import ConditionError, SourceError, shown

LICENCE = "NIH Clinical Center: unrestricted use; link, citation and credit asked"
COLUMNS = 7
SPLIT_LISTS: dict[str, SplitHint] = {"test_list.txt": "test", "train_val_list.txt": "development"}


def nih(root: Path) -> Iterator[SourceRow | Rejected]:
    """NIH ChestX-ray14 (Wang et al. 2017): Data_Entry_2017*.csv[.gz] beside any folders of images.

    The last two headers of the table hold a comma, so it's read by position. Images are matched by stem, since copies
    come re-encoded; the table may list more images than there are. Labels are text-mined: a label listed is present,
    one not listed is unknown. The publisher's split is that of train_val_list.txt and test_list.txt, where they are.

    Raises:
        SourceError: no table, no image, or a row of the table that isn't one (named).
    """
    table = one_file(root, "nih", gzipped_too("Data_Entry_2017*.csv"))
    splits = _splits(root)

    def build(path: Path, cells: list[str]) -> SourceRow:
        image, labels, _, patient, age, sex, view, *_ = cells
        findings = named_findings(labels.split("|"), NIH_LABELS)
        return PublishedRow(
            path=path,
            id=path.stem,
            patient=f"nih-{patient.lstrip('0')}",
            study=path.stem,
            condition=condition(findings, age=_age(age), sex=sex_of(sex), view=view_of(view)),
            source="nih",
            licence=LICENCE,
            split=splits.get(stem_of(image)),
        )

    yield from joined(images_by(root), _rows(table), build)


def _rows(table: Path) -> Iterator[tuple[Path, int, str, list[str]]]:
    for number, cells in csv_rows(table):
        if len(cells) < COLUMNS:
            raise SourceError(f"{shown(table)} row {number}: {len(cells)} columns, must be {COLUMNS} or more")
        if number > 1:
            yield table, number, stem_of(cells[0]), cells


def _splits(root: Path) -> dict[str, SplitHint]:
    """The publisher's split of each image, by stem."""
    lists = {root / name: split for name, split in SPLIT_LISTS.items() if (root / name).is_file()}
    return {stem_of(cells[0]): split for path, split in lists.items() for _, cells in csv_rows(path)}


def _age(cell: str) -> int | None:
    """Years. The first release of the table writes 058Y, and ages up to 414; those and blanks are unknown."""
    digits = cell.strip().rstrip("Y")
    if not digits:
        return None
    if not digits.isdecimal():
        raise ConditionError(f"age = {cell!r} must be a whole number of years")
    return int(digits) if int(digits) <= MAX_AGE else None
