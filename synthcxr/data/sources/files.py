"""Image files below a folder, and their meeting with the rows of a table. No file is opened."""

import logging
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import NoReturn, TypeVar

from synthcxr.data.decode import IMAGE_SUFFIXES
from synthcxr.data.sources.row import Rejected, SourceRow
from synthcxr.errors import ConditionError, SourceError, shown

log = logging.getLogger(__name__)

DICOM_SUFFIXES = (".dcm", ".dicom")
_TAKEN = ""  # in place of the path of an image that a row of the table has claimed

T = TypeVar("T")


def walk(root: Path) -> Iterator[str]:
    """The paths of all files below `root`, in an order that's the same on any machine; hidden ones are left out.

    Links to folders are followed, each folder being read once.

    Raises:
        SourceError: a folder can't be read: what's in it must not be missing unsaid.
    """
    seen: set[tuple[int, int]] = set()
    for folder, subfolders, names in os.walk(root, onerror=_unreadable, followlinks=True):
        status = os.stat(folder)
        if (status.st_dev, status.st_ino) in seen:
            subfolders.clear()
            continue
        seen.add((status.st_dev, status.st_ino))
        subfolders.sort()
        for name in sorted(names):
            if not name.startswith("."):
                yield f"{folder}{os.sep}{name}"


def _unreadable(error: OSError) -> NoReturn:
    raise SourceError(f"folder {shown(error.filename)} can't be read ({error.strerror}); allow it, or move it away")


def stem_of(path: str) -> str:
    """The name of a file without its last suffix: the same for a re-encoded copy."""
    return os.path.splitext(os.path.basename(path))[0]


def images_by(
    root: Path, key: Callable[[str], str] = stem_of, suffixes: tuple[str, ...] = IMAGE_SUFFIXES
) -> dict[str, str]:
    """The images below `root` by what tells them apart; of several copies of one, the largest file.

    Raises:
        SourceError: there is none.
    """
    images: dict[str, str] = {}
    copies = 0
    for path in walk(root):
        if path.lower().endswith(suffixes):
            other = images.setdefault(key(path), path)
            if other is not path:
                copies += 1
                images[key(path)] = max(other, path, key=_size)
    if copies:
        log.warning("%s: %d images come in more than one copy; the largest file of each is read", shown(root), copies)
    if not images:
        raise SourceError(f"{shown(root)} holds no {' or '.join(suffixes)} image; give another root")
    return images


def _size(path: str) -> int:
    return os.path.getsize(path) if os.path.exists(path) else -1  # a link to nowhere


def joined(
    images: dict[str, str],
    rows: Iterable[tuple[Path, int, str, T]],
    build: Callable[[Path, T], SourceRow | Rejected],
    unlisted_by_rule: bool = False,
) -> Iterator[SourceRow | Rejected]:
    """Each image with its row, in the order of the tables; then, as rejected, the images that no row lists.

    A row whose cells say something impossible is rejected with its number. How many rows have no image is logged: most
    people have a part of what a publisher gives.

    Args:
        images: by key, as `images_by` gives them; used up.
        rows: (table, row number, key, whatever `build` takes), of one table after the other.
        build: makes a row of an image; may raise ConditionError.
        unlisted_by_rule: the table says which images are meant, so that others are no damage.
    """
    absent = again = total = 0
    tables: list[Path] = []
    for table, number, key, cells in rows:
        total += 1
        if not tables or table is not tables[-1]:
            tables.append(table)
        path = images.get(key)
        if not path:
            absent += path is None
            again += path == _TAKEN
            continue
        images[key] = _TAKEN
        try:
            yield build(Path(path), cells)
        except ConditionError as error:
            yield Rejected(path=Path(path), reason=f"{shown(table)} row {number}: {error}")
    few = " or ".join(table.name for table in tables[:3])
    names = few if len(tables) <= 3 else f"the {len(tables)} files of the source"
    if absent:
        log.warning("%s: %d of %d rows have no image here", names, absent, total)
    if again:
        log.warning("%s: %d rows list an image again; the first row of each counts", names, again)
    for path in images.values():
        if path != _TAKEN:
            yield Rejected(path=Path(path), reason=f"not listed in {names}", by_rule=unlisted_by_rule)
