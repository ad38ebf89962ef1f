"""The exact state of a run on disk: safetensors shards under 16 MB, each with its hash, in a folder made at once.

A checkpoint is `step-00001000/` with state*.safetensors and state.json. Nothing is pickled.
"""

import json
import logging
import shutil
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import torch
from huggingface_hub import split_torch_state_dict_into_shards
from safetensors import safe_open
from safetensors.torch import save_file

from synthcxr.errors import shown
from synthcxr.files import TEMPORARY_PREFIX, atomic_path, sha256_file, sync

log = logging.getLogger(__name__)
SHARD_SIZE = 15 * 2**20
THREADS = 8  # writing and hashing, neither of which holds Python's lock


class SavedTensors(Mapping[str, torch.Tensor]):
    """Tensors by name, each read from its file when it's asked for: a process that needs parts keeps no whole state."""

    def __init__(self, files: list[Path]):
        self._places: dict[str, Path] = {}
        for file in files:
            with safe_open(file, "pt") as shard:
                self._places |= dict.fromkeys(shard.keys(), file)
        self._open: tuple[Path, safe_open] | None = None  # the last one: names come in the order of the files

    def __getitem__(self, name: str) -> torch.Tensor:
        file = self._places[name]
        if self._open is None or self._open[0] != file:
            self._open = (file, safe_open(file, "pt"))
        return self._open[1].get_tensor(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)


@dataclass(frozen=True)
class Checkpoint:
    """State after `step` optimizer steps."""

    step: int
    tensors: Mapping[str, torch.Tensor]


def save_checkpoint(folder: Path, step: int, tensors: Mapping[str, torch.Tensor], keep: int = 2) -> None:
    """Write `folder/step-NNNNNNNN`, whole or not at all, then remove all but the newest `keep`.

    It has its name before the disk has all of it, so that a process that is about to be killed has saved by then; what
    a power cut leaves of it doesn't fit its hashes, and those before it are removed once the disk is done.
    """
    path = folder / f"step-{step:08d}"
    if path.exists():
        shutil.rmtree(path)  # it was found broken, or it would have been resumed from
    plan = split_torch_state_dict_into_shards(
        dict(tensors), filename_pattern="state{suffix}.safetensors", max_shard_size=SHARD_SIZE
    )
    with atomic_path(path, synced=False) as temporary, ThreadPoolExecutor(THREADS) as pool:
        temporary.mkdir()

        def write(item: tuple[str, list[str]]) -> tuple[str, str]:
            name, keys = item
            save_file({key: tensors[key].detach().cpu().contiguous() for key in keys}, temporary / name)
            return name, sha256_file(temporary / name)  # of what was just written: it's in memory still

        hashes = dict(pool.map(write, plan.filename_to_tensors.items()))
        (temporary / "state.json").write_text(json.dumps({"step": step, "sha256": hashes}, indent=1))
    sync(folder)
    # Unfinished ones are what a killed process left.
    for old in [*_folders(folder)[keep:], *folder.glob(f"{TEMPORARY_PREFIX}*")]:
        shutil.rmtree(old)


def latest_checkpoint(folder: Path) -> Checkpoint | None:
    """The newest whole checkpoint; broken ones are named in the log and passed over."""
    for path in _folders(folder):
        problem = _problem(path)
        if problem is None:
            return _opened(path)
        log.warning("%s is broken (%s); going back to the checkpoint before it", shown(path), problem)
    return None


def checkpoint_of(folder: Path, step: int) -> Checkpoint:
    """The checkpoint of a step that another process found whole."""
    return _opened(folder / f"step-{step:08d}")


def _opened(path: Path) -> Checkpoint:
    state = json.loads((path / "state.json").read_text())
    return Checkpoint(state["step"], SavedTensors([path / name for name in state["sha256"]]))


def _folders(folder: Path) -> list[Path]:
    return sorted(folder.glob("step-*"), reverse=True)


def _problem(path: Path) -> str | None:
    """What is wrong with a checkpoint, or None."""
    try:
        state = json.loads((path / "state.json").read_text())
        _, hashes = int(state["step"]), dict(state["sha256"])
    except (OSError, ValueError, KeyError, TypeError):
        return "state.json can't be read"
    with ThreadPoolExecutor(THREADS) as pool:
        return next(filter(None, pool.map(lambda name: _damage(path / name, hashes[name]), hashes)), None)


def _damage(file: Path, expected: str) -> str | None:
    if not file.is_file():
        return f"{file.name} is missing"
    return None if sha256_file(file) == expected else f"{file.name} isn't what was written"
