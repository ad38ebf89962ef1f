"""CSV files that are written here: whole or not at all, and no cell of text can start a formula."""

import csv
from collections.abc import Iterable, Sequence
from pathlib import Path

from synthcxr.files import atomic_path

# OWASP, CSV Injection: what makes a spreadsheet take a cell for a formula, wide forms included; a line feed as well.
_STARTS_A_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")


def safe_cell(text: str) -> str:
    """A text as a cell: one that a spreadsheet would take for a formula gets an apostrophe before it (OWASP's rule)."""
    return f"'{text}" if text.startswith(_STARTS_A_FORMULA) else text


def write_csv(path: Path, header: Sequence[str], rows: Iterable[Sequence[str | int | float | None]]) -> None:
    """Write a table in UTF-8; numbers stay numbers, None is blank, texts go through `safe_cell`."""
    with atomic_path(path) as temporary, open(temporary, "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(map(safe_cell, header))
        writer.writerows([safe_cell(cell) if isinstance(cell, str) else cell for cell in row] for row in rows)
