"""`synthcxr verify`: is a folder still what was written?"""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

from synthcxr.data.dataset import Dataset
from synthcxr.data.manifest import counts_of, read_info
from synthcxr.data.record import Record
from synthcxr.data.shard import read_sidecar
from synthcxr.data.sums import SUMS, check_sums, differences
from synthcxr.errors import DatasetError, UserError, shown

_TOLD_BY = ("dataset.json", "manifest.parquet")


def verify(folder: Path) -> list[str]:
    """Read every file of a DATASET, or of an export of one, and compare it with SHA256SUMS.

    Of a DATASET, each image is compared with its row of the manifest as well, and the row with what the shard says
    beside the image: that finds a changed row even where the sums were made anew.

    Returns:
        one line a problem; none for a folder that is whole.
    Raises:
        DatasetError: the folder is neither.
    """
    folder = Path(folder)
    summed, is_dataset = (folder / SUMS).is_file(), (folder / "dataset.json").is_file()
    if not summed and not is_dataset:
        raise DatasetError(f"{shown(folder)} holds no dataset.json and no {SUMS}; give a DATASET or an export of one")
    problems = check_sums(folder) if summed else _by_dataset_json(folder)
    if is_dataset and not any(problem.startswith(_TOLD_BY) for problem in problems):
        problems += _contents(folder)
    return problems


def _by_dataset_json(folder: Path) -> list[str]:
    """Datasets from before there were sums have the hashes of images and tables in dataset.json."""
    unsure = f"{SUMS}: missing, so that dataset.json and README.md can't be checked; restore it or prepare again"
    try:
        info = read_info(folder)
        listed = {
            "manifest.parquet": info["manifest_sha256"],
            **{f"shards/{name}": digest for name, digest in info["shards"].items()},
            **info.get("attached", {}),
        }
    except (UserError, KeyError, TypeError, AttributeError) as error:
        return [unsure, f"dataset.json: isn't as it was written ({error})"]
    written_too = [f"{name}: not listed in dataset.json" for name in ("README.md", "croissant.json", "dataset.json")]
    return [unsure, *(line for line in differences(folder, listed, "dataset.json") if line not in written_too)]


def _contents(folder: Path) -> list[str]:
    try:
        dataset = Dataset.open(folder)
        records = dataset.records
    except UserError as error:
        return [str(error)]
    problems = [problem for record in records for problem in _image(dataset, record)]
    if dataset.info.get("counts") != counts_of(dataset.table):
        problems.append("dataset.json: counts differ from the manifest")
    return problems


def _image(dataset: Dataset, record: Record) -> Iterator[str]:
    try:
        if hashlib.sha256(dataset.read_bytes(record)).hexdigest() != record.sha256:
            yield f"{record.id}: sha256 of the image differs from the manifest"
        said = json.loads(read_sidecar(dataset.path / "shards", record))
    except (DatasetError, ValueError) as error:
        yield f"{record.id}: {error}"
        return
    row = json.loads(record.sidecar())
    if not isinstance(said, dict) or {"weight": 1.0, **said} != row:  # older shards don't say that all weigh the same
        yield f"{record.id}: its row of the manifest differs from {record.id}.json in {record.shard}"
