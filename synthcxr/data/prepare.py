"""`synthcxr prepare`: one source into a DATASET folder, split by patient."""

import json
import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from pydantic import Field
from tqdm import tqdm

from synthcxr.config import Config, config_hash
from synthcxr.data.dataset import Dataset, DatasetWriter
from synthcxr.data.record import Split
from synthcxr.data.sources import SOURCES, Rejected, SourceName, SourceRow
from synthcxr.errors import ImageError, RunError, SourceError, shown
from synthcxr.images import from_float, read_image, to_float
from synthcxr.runs import derive_seed, write_text

log = logging.getLogger(__name__)

MAX_BAD_SHARE = 0.05


class PrepareConfig(Config):
    """What `synthcxr prepare` needs; see configs/prepare/."""

    source: SourceName
    root: Path
    output: Path
    holdout: float = Field(0.1, ge=0, lt=0.5, description="share of patients kept for validation, and again for test")
    seed: int = 0
    max_size: int | None = Field(None, ge=64, description="largest shorter side in pixels; larger images are reduced")


def run(config: PrepareConfig) -> Dataset:
    """Read one source into a DATASET folder, splitting by patient.

    What can't be read is listed, with the reason, in `<output>.quarantine.jsonl`. The same command again returns the
    dataset that is there.

    Raises:
        SourceError: a table or folder that the source's layout asks for is missing (named), or more than 5% of the
            images can't be used.
        RunError: the output holds something else.
    """
    if done := _already_prepared(config):
        log.info("%s is already prepared", shown(config.output))
        return done
    items = list(SOURCES[config.source](config.root))
    rejected = [item for item in items if isinstance(item, Rejected)]
    rows = [item for item in items if isinstance(item, SourceRow)]
    extra = {"prepare": _resolved(config), "config_hash": _identity(config)}
    shorter_side = f"at most {config.max_size} pixels" if config.max_size else "as in the source files"
    preprocessing = {"max_size": config.max_size, "shorter side": shorter_side}
    with DatasetWriter(config.output, origin="real", preprocessing=preprocessing, extra=extra) as writer:
        for row in tqdm(rows, "prepare", file=sys.stderr, unit="image", disable=None):
            try:
                pixels = read_image(row.path)
            except ImageError as error:
                rejected.append(Rejected(path=row.path, reason=str(error)))
                continue
            _add(writer, row, pixels, config)
        _quarantine(config, rejected, len(items))
    return writer.dataset


def split_of(patient: str, holdout: float, seed: int = 0) -> Split:
    """The split of a patient: a hash of the id, so that it's the same in any dataset that the patient is in.

    A larger `holdout` only moves patients out of training.
    """
    place = derive_seed(seed, f"split/{patient}") / 2**63
    if place < holdout:
        return "test"
    return "validate" if place >= 1 - holdout else "train"


def limit_size(pixels: np.ndarray, max_size: int | None) -> np.ndarray:
    """`pixels` reduced, antialiased, so that the shorter side is at most `max_size`; the same array where it is."""
    height, width = pixels.shape
    if max_size is None or min(height, width) <= max_size:
        return pixels
    scale = max_size / min(height, width)
    size = (max(max_size, round(width * scale)), max(max_size, round(height * scale)))
    reduced = Image.fromarray(to_float(pixels), mode="F").resize(size, Image.Resampling.LANCZOS)
    return from_float(np.asarray(reduced), bits=8 * pixels.dtype.itemsize)


def _add(writer: DatasetWriter, row: SourceRow, pixels: np.ndarray, config: PrepareConfig) -> None:
    height, width = pixels.shape
    fields = {name: getattr(row, name) for name in SourceRow.model_fields if name != "path"}
    split = split_of(row.patient, config.holdout, config.seed)
    writer.add(limit_size(pixels, config.max_size), split=split, native_size=(width, height), **fields)


def _quarantine(config: PrepareConfig, rejected: Sequence[Rejected], total: int) -> None:
    """List what can't be used beside the dataset, and stop where that's too much to be chance."""
    path = config.output.with_name(config.output.name + ".quarantine.jsonl")
    if not rejected:
        path.unlink(missing_ok=True)
        return
    lines = (json.dumps({"file": _relative(item.path, config.root), "reason": item.reason}) for item in rejected)
    write_text(path, "".join(f"{line}\n" for line in lines))
    log.warning("%d of %d images can't be used: see %s", len(rejected), total, shown(path))
    if len(rejected) > MAX_BAD_SHARE * total:
        raise SourceError(
            f"{shown(config.root)}: {len(rejected)} of {total} images can't be used (at most {MAX_BAD_SHARE:.0%} may);"
            f" see {shown(path)}, the first: {rejected[0].reason}"
        )


def _relative(path: Path, root: Path) -> str:
    return path.relative_to(root).as_posix() if path.is_relative_to(root) else path.name


def _already_prepared(config: PrepareConfig) -> Dataset | None:
    output = config.output
    if not output.exists() or (output.is_dir() and not any(output.iterdir())):
        return None
    if not (output / "dataset.json").is_file():
        raise RunError(f"{shown(output)} isn't empty and holds no dataset; give another output")
    dataset = Dataset.open(output)
    if dataset.info.get("config_hash") == _identity(config):
        return dataset
    before = dataset.info.get("prepare") or {}
    changed = [key for key, now in _resolved(config).items() if before.get(key) != now]
    what = f"{changed[0]} {before.get(changed[0])}, now {getattr(config, changed[0])}" if changed else "another root"
    raise RunError(f"{shown(output)} holds a dataset made with another config ({what}); give another output")


def _resolved(config: PrepareConfig) -> dict[str, Any]:
    """What dataset.json tells of the config; names of folders stay out, since a dataset is given away."""
    return config.model_dump(mode="json", exclude={"root", "output"})


def _identity(config: PrepareConfig) -> str:
    """Hash of all that decides the content: the output's own name isn't part of it."""
    return config_hash(config.model_copy(update={"root": config.root.resolve(), "output": Path()}))
