"""SHA256SUMS: the sha256 of every other file of a folder, in the format of coreutils, so that `sha256sum -c` reads it.

It guards against faults (of disks, copies, hands), not against forgers: who changes a file on purpose can write the
sums anew. Whoever keeps the hash of SHA256SUMS itself elsewhere can tell that as well.
"""

import os
import re
from collections.abc import Mapping
from pathlib import Path

from synthcxr.files import sha256_file, write_text

SUMS = "SHA256SUMS"
_LINE = re.compile(r"([0-9a-f]{64})  (.+)")


def write_sums(folder: Path, known: Mapping[str, str] | None = None) -> None:
    """Write the sums of a folder whose files are all there: the last thing to be written into it.

    Args:
        known: sums by name, taken when the files were written: what has changed since is found, too.
    """
    text = _text({name: (known or {}).get(name) or sha256_file(folder / name) for name in files_in(folder)})
    path = folder / SUMS
    if not path.is_file() or path.read_bytes() != text.encode():
        write_text(path, text)


def check_sums(folder: Path) -> list[str]:
    """What differs from SHA256SUMS, itself included: any bit of any file, and files lost or added; one line each."""
    data = (folder / SUMS).read_bytes()
    listed, bad_lines = _read(data)
    problems = [f"{SUMS} line {n}: must be a sha256, two blanks and the name of one more file" for n in bad_lines]
    problems += differences(folder, listed, SUMS)
    if not problems and data != _text(listed).encode():
        problems.append(f"{SUMS}: isn't as it was written (order of lines, or its last line break)")
    return problems


def changed_files(folder: Path) -> list[str]:
    """Files listed in SHA256SUMS that are missing or have another sha256."""
    listed, _ = _read((folder / SUMS).read_bytes())
    return [name for name, digest in listed.items() if not _is_as_listed(folder / name, digest)]


def differences(folder: Path, listed: Mapping[str, str], where: str) -> list[str]:
    """Files of a folder that aren't those listed, by name and sha256; `where` is what lists them."""
    found = files_in(folder)
    problems = [f"{_shown(name)}: not listed in {where}" for name in found if name not in listed]
    for name, digest in sorted(listed.items()):
        if name not in found:
            problems.append(f"{_shown(name)}: missing")
            continue
        try:
            if sha256_file(folder / name) != digest:
                problems.append(f"{_shown(name)}: sha256 differs from {where}")
        except OSError as error:
            problems.append(f"{_shown(name)}: can't be read ({error.strerror})")
    return problems


def files_in(folder: Path) -> list[str]:
    """Whatever lies below a folder, hidden files and links too, but folders and SHA256SUMS; sorted, with slashes."""
    found = []
    for place, folders, names in os.walk(folder):
        links = [name for name in folders if os.path.islink(os.path.join(place, name))]
        found += [(Path(place) / name).relative_to(folder).as_posix() for name in (*names, *links)]
    return sorted(set(found) - {SUMS})


def _read(data: bytes) -> tuple[dict[str, str], list[int]]:
    """Sums by name, and the numbers of lines that aren't one."""
    listed: dict[str, str] = {}
    bad_lines = []
    for number, line in enumerate(data.decode("utf-8", "replace").removesuffix("\n").split("\n"), start=1):
        match = _LINE.fullmatch(line)
        if match and match[2] not in listed:
            listed[match[2]] = match[1]
        elif data:
            bad_lines.append(number)
    return listed, bad_lines


def _is_as_listed(path: Path, digest: str) -> bool:
    return path.is_file() and sha256_file(path) == digest


def _text(sums: Mapping[str, str]) -> str:
    return "".join(f"{digest}  {name}\n" for name, digest in sorted(sums.items()))


def _shown(name: str) -> str:
    return name if name.isprintable() else ascii(name)
