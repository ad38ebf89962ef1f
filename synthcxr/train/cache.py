"""What is computed once and read in every step: rows of arrays in files, made part by part.

A part is a folder `00012/` with one .npy file a field. Making goes on where it was cut off, and is shared by the
processes of a run; reading maps the files, so no more than a batch is in memory.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
from accelerate import Accelerator
from tqdm import tqdm

from synthcxr.errors import RunError
from synthcxr.files import atomic_path

PART = 256  # rows
MAX_OPEN = 200  # parts

Make = Callable[[range], Mapping[str, np.ndarray]]


class Rows:
    """Rows 0 to count - 1 of named arrays."""

    def __init__(self, folder: Path, count: int):
        self.folder, self.count = folder, count
        self._open: dict[int, dict[str, np.ndarray]] = {}  # the last ones used: each holds a file open

    def fetch(self, indices: Sequence[int]) -> dict[str, np.ndarray]:
        """The rows of these indices, in this order, by field."""
        rows = [{name: array[i % PART] for name, array in self._part(int(i) // PART).items()} for i in indices]
        return {name: np.stack([row[name] for row in rows]) for name in rows[0]}

    def _part(self, number: int) -> dict[str, np.ndarray]:
        if number not in self._open:
            files = sorted(_part_folder(self.folder, number).glob("*.npy"))
            self._open[number] = {file.stem: np.load(file, mmap_mode="r") for file in files}
            if len(self._open) > MAX_OPEN:
                del self._open[next(iter(self._open))]
        return self._open[number]


def cached_rows(folder: Path, count: int, make: Make, accelerator: Accelerator, name: str) -> Rows:
    """Rows that `make(range)` gives, from their files where these are there.

    Args:
        folder: named by a hash of all that decides the rows.
        name: what they are, for the progress bar.
    Raises:
        RunError: a number doesn't fit its type (float16 ends at 65504).
    """
    parts = range(-(-count // PART))
    own = parts[accelerator.process_index :: accelerator.num_processes]
    missing = [number for number in own if not _part_folder(folder, number).exists()]
    for number in tqdm(missing, name, disable=not (missing and accelerator.is_main_process)):
        made = make(range(number * PART, min(count, (number + 1) * PART)))
        with atomic_path(_part_folder(folder, number)) as temporary:
            temporary.mkdir()
            for field, array in made.items():
                if not np.isfinite(array).all():
                    raise RunError(f"{name} of rows {number * PART} on aren't finite; check the base's weights")
                np.save(temporary / f"{field}.npy", array)
    accelerator.wait_for_everyone()
    return Rows(folder, count)


def _part_folder(folder: Path, number: int) -> Path:
    return folder / f"{number:05d}"
