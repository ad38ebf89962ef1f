"""Files and folders that appear under their name only when they're whole; one writer at a time; hashes of files."""

import contextlib
import hashlib
import json
import math
import os
import re
import secrets
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from enum import Enum
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from synthcxr.errors import RunError, shown

TEMPORARY_PREFIX = ".tmp-"


@contextlib.contextmanager
def atomic_path(path: Path | str, synced: bool = True) -> Iterator[Path]:
    """Give a temporary sibling to write, file or folder; it takes the final name only when the block ends well.

    The temporary name ends like the final one, so writers that go by the extension work. A file replaces an existing
    file; a folder replaces nothing but an empty folder. On failure, interrupts included, the temporary one is removed.

    Args:
        synced: wait for the disk before; False where a reader tells what a power cut left of it (see `sync`).
    Raises:
        RunError: the final name is a folder with something in it, or its parent can't be made (said before any work).
        FileNotFoundError: the block wrote nothing.
    """
    path = Path(path)
    if path.is_dir() and any(path.iterdir()):
        raise RunError(f"{shown(path)} is a folder that is not empty; remove it or give another name")
    make_folder(path.parent)
    temporary = temporary_of(path)
    try:
        yield temporary
        publish(temporary, path, synced)
    finally:
        remove(temporary)  # nothing is left under this name unless the block failed


def temporary_of(path: Path, token: str | None = None) -> Path:
    """What `path` is called until it's whole: a hidden sibling, whose name ends alike.

    Args:
        token: 8 to 64 hex digits by which a later process finds it again; None: random ones.
    """
    return path.with_name(f"{TEMPORARY_PREFIX}{token or secrets.token_hex(4)}-{path.name}")


def temporaries_of(path: Path) -> list[Path]:
    """The temporary siblings that are there of a file or folder of this very name, whether or not `path` is.

    Killed processes leave them; but another one may be writing one just now, if it isn't kept out (see only_writer).
    """
    name = re.compile(re.escape(TEMPORARY_PREFIX) + "[0-9a-f]{8,64}-" + re.escape(path.name))
    return (
        [sibling for sibling in path.parent.iterdir() if name.fullmatch(sibling.name)] if path.parent.is_dir() else []
    )


def publish(temporary: Path, path: Path, synced: bool = True) -> None:
    """Give what was written, file or folder, its final name, once it's safe on the disk."""
    if synced:
        sync(temporary)
    os.replace(temporary, path)
    if synced:
        _fsync(path.parent)


def sync(path: Path) -> None:
    """Wait until a file, or a folder with all that's in it, is on the disk."""
    if path.is_dir():
        for file in sorted(path.rglob("*")):
            _fsync(file)
    _fsync(path)


@contextlib.contextmanager
def only_writer(path: Path | str, shared: bool = False) -> Iterator[None]:
    """While entered, no other process can enter for the same `path`; one that ends in whatever way leaves it.

    A lock on a hidden file beside it, which the system lets go of with the process: what a killed one left of the file
    keeps nobody out.

    Args:
        shared: others that say so as well may be in at the same time, since they write different parts.
    Raises:
        RunError: another process has entered.
    """
    import fcntl  # of POSIX systems; what only draws pictures works without

    path = Path(path)
    make_folder(path.parent)
    lock = path.with_name(f"{TEMPORARY_PREFIX}{path.name}.lock")
    while True:
        descriptor = os.open(lock, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            raise RunError(f"{shown(path)} is being written by another process; wait for it, or give another") from None
        if _is_still(descriptor, lock):
            break
        os.close(descriptor)  # of a process that ended in between and took the file away
    try:
        yield
    finally:
        if not shared:  # others may be in, who keep out the one who'll write the whole: that one takes it away
            lock.unlink(missing_ok=True)  # before letting go: nobody must lock a file that is about to go
        os.close(descriptor)


def _is_still(descriptor: int, path: Path) -> bool:
    """Whether an open file is the one that has this name now."""
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(path))
    except FileNotFoundError:
        return False


def write_bytes(path: Path | str, data: bytes) -> None:
    """Write a whole file or none."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(data)


def write_text(path: Path | str, text: str) -> None:
    """Write a whole UTF-8 file or none."""
    write_bytes(path, text.encode("utf-8"))


def write_json(path: Path | str, value: Any) -> None:
    """Write a whole JSON file or none; a number that is not finite becomes null, since JSON has no word for it."""
    write_text(path, json.dumps(plain(value), indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def sha256_file(path: Path | str) -> str:
    """sha256 of a file's bytes, 64 hex digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def hash_files(paths: Iterable[Path | str], digest: Callable[[Path], str] = sha256_file) -> str:
    """sha256 over the names and contents of files, 64 hex digits.

    The order given and where the files' common folder lies don't count; their names below it do.
    """
    files = sorted({Path(path).absolute() for path in paths})
    if not files:
        return hashlib.sha256().hexdigest()
    root = os.path.commonpath([file.parent for file in files])
    lines = sorted(f"{file.relative_to(root).as_posix()}\0{digest(file)}\n" for file in files)
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(f"{shown(folder)} can't be made a folder ({error.strerror}); give another output") from None


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove(path: Path) -> None:
    """Remove a file, a link or a whole folder; nothing there is fine."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def plain(value: Any) -> Any:
    """What JSON can hold: models, enums, paths and numpy or torch numbers turned into it, not-finite to null."""
    if isinstance(value, BaseModel | Enum):
        return plain(value.model_dump(mode="json") if isinstance(value, BaseModel) else value.value)
    if isinstance(value, Mapping):
        return {str(plain(key)): plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(inner) for inner in value]
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if value is None or isinstance(value, int | str):
        return value
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if hasattr(value, "tolist"):  # numpy and torch scalars and arrays, without importing either
        return plain(value.tolist())
    raise TypeError(f"{type(value).__name__} can't be written as JSON")
