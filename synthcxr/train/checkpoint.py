"""The exact state of a run on disk: safetensors shards under 16 MB, each with its hash, in a folder made at once.

A checkpoint is `step-00001000/` with state*.safetensors and state.json. Nothing is pickled.
"""

import json
import logging
import shutil
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import torch
from huggingface_hub import split_torch_state_dict_into_shards
from safetensors.torch import load_file, save_file

from synthcxr.errors import shown
from synthcxr.files import TEMPORARY_PREFIX, atomic_path, sha256_file

log = logging.getLogger(__name__)
SHARD_SIZE = 15 * 2**20
WRITERS = 4


@dataclass(frozen=True)
class Checkpoint:
    """State after `step` optimizer steps."""

    step: int
    tensors: dict[str, torch.Tensor]


def save_checkpoint(folder: Path, step: int, tensors: dict[str, torch.Tensor], keep: int = 2) -> None:
    """Write `folder/step-NNNNNNNN`, whole or not at all, then remove all but the newest `keep`."""
    path = folder / f"step-{step:08d}"
    if path.exists():
        shutil.rmtree(path)  # it was found broken, or it would have been resumed from
    plan = split_torch_state_dict_into_shards(
        tensors, filename_pattern="state{suffix}.safetensors", max_shard_size=SHARD_SIZE
    )
    with atomic_path(path) as temporary:
        temporary.mkdir()

        def write(item: tuple[str, list[str]]) -> tuple[str, str]:
            name, keys = item
            save_file({key: tensors[key].detach().cpu().contiguous() for key in keys}, temporary / name)
            return name, sha256_file(temporary / name)

        with ThreadPoolExecutor(WRITERS) as pool:  # a signal's grace is short, and hashing leaves processors idle
            hashes = dict(pool.map(write, plan.filename_to_tensors.items()))
        (temporary / "state.json").write_text(json.dumps({"step": step, "sha256": hashes}, indent=1))
    # Unfinished ones are what a killed process left.
    for old in [*_folders(folder)[keep:], *folder.glob(f"{TEMPORARY_PREFIX}*")]:
        shutil.rmtree(old)


def latest_checkpoint(folder: Path) -> Checkpoint | None:
    """The newest whole checkpoint; broken ones are named in the log and passed over."""
    for path in _folders(folder):
        problem = _problem(path)
        if problem is None:
            state = json.loads((path / "state.json").read_text())
            tensors: dict[str, torch.Tensor] = {}
            for name in state["sha256"]:
                tensors |= load_file(path / name)
            return Checkpoint(state["step"], tensors)
        log.warning("%s is broken (%s); going back to the checkpoint before it", shown(path), problem)
    return None


def _folders(folder: Path) -> list[Path]:
    return sorted(folder.glob("step-*"), reverse=True)


def _problem(path: Path) -> str | None:
    """What is wrong with a checkpoint, or None."""
    try:
        state = json.loads((path / "state.json").read_text())
        _, hashes = int(state["step"]), dict(state["sha256"])
    except (OSError, ValueError, KeyError, TypeError):
        return "state.json can't be read"
    for name, expected in hashes.items():
        if not (path / name).is_file():
            return f"{name} is missing"
        if sha256_file(path / name) != expected:
            return f"{name} isn't what was written"
    return None
