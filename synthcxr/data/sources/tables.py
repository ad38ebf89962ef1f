"""Tables on disk, read as a stream: CSV files as published, possibly gzipped. A mistake names file, row and column.

Rows are counted as a spreadsheet does: the header is row 1.
"""

import csv
import gzip
import zlib
from collections.abc import Iterable, Iterator, Sequence
from operator import itemgetter
from pathlib import Path

from synthcxr.errors import SourceError, did_you_mean, shown


def one_file(root: Path, source: str, patterns: Iterable[str]) -> Path:
    """The one file of a source's folder that fits any of the patterns.

    Raises:
        SourceError: no such folder, no such file, or several.
    """
    patterns = tuple(patterns)
    if not root.is_dir():
        raise SourceError(f"{shown(root)} must be the folder of source {source}; there is none: give another root")
    found = sorted(path for pattern in patterns for path in root.glob(pattern))
    if len(found) != 1:
        names = ", ".join(path.name for path in found) or "none"
        raise SourceError(f"{shown(root)} must hold one {' or '.join(patterns)} for source {source}; found {names}")
    return found[0]


def gzipped_too(*names: str) -> tuple[str, ...]:
    """The patterns of CSV files, each plain and gzipped."""
    return tuple(name + ending for name in names for ending in ("", ".gz"))


def first_file(folders: Iterable[Path], names: Iterable[str]) -> Path | None:
    """The first of the files that is there, tried name by name; None where the source came without."""
    folders = tuple(folders)
    candidates = (path for name in names for folder in folders for path in sorted(folder.glob(name)))
    return next(candidates, None)


def csv_rows(path: Path) -> Iterator[tuple[int, list[str]]]:
    """(row number, cells) of a CSV file, the header first; blank lines are left out, but counted.

    Raises:
        SourceError: not to be read as CSV in UTF-8.
    """
    open_text = gzip.open if path.suffix == ".gz" else open
    try:
        with open_text(path, "rt", encoding="utf-8-sig", newline="") as file:
            for number, cells in enumerate(csv.reader(file), start=1):
                if cells:
                    yield number, cells
    except (OSError, UnicodeDecodeError, csv.Error, EOFError, zlib.error) as error:
        raise SourceError(f"{shown(path)} must be a readable CSV file in UTF-8 ({error})") from error


def table_rows(
    path: Path, needed: Sequence[str], optional: Sequence[str] = ()
) -> Iterator[tuple[int, tuple[str, ...]]]:
    """(row number, the cells of the columns asked for, in that order) of a CSV file with a header.

    An optional column that isn't there is "" in every row.

    Raises:
        SourceError: no row, a column is missing, or a row has another length than the header.
    """
    rows = csv_rows(path)
    header = [name.strip() for name in next(rows, (1, []))[1]]
    check_columns(path, header, needed)
    # One cell more, an empty one, stands in for the columns that aren't there.
    places = [header.index(name) if name in header else len(header) for name in (*needed, *optional)]
    pick = itemgetter(*places) if len(places) > 1 else lambda cells: (cells[places[0]],)
    number = 1
    for number, cells in rows:
        if len(cells) != len(header):
            raise SourceError(
                f"{shown(path)} row {number}: {len(cells)} cells, must be {len(header)} as in the header;"
                " quote cells that hold commas"
            )
        cells.append("")
        yield number, pick(cells)
    if number == 1:
        raise SourceError(f"{shown(path)} must hold at least one row below its header")


def check_columns(path: Path, header: Sequence[str], needed: Iterable[str]) -> None:
    """Raise SourceError for the first needed column that a table doesn't have."""
    for name in needed:
        if name not in header:
            raise SourceError(f"{shown(path)} must have a column {name!r}{did_you_mean(name, header)}")
