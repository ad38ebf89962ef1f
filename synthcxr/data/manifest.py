"""What a DATASET folder says of itself: the checks of its manifest, its counts."""

import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from synthcxr.data.record import SCHEMA, SHARD_PATTERN, SPLITS
from synthcxr.errors import DatasetError, shown

SCHEMA_VERSION = 1


def read_info(path: Path) -> dict[str, Any]:
    """dataset.json of a folder, its schema version checked.

    Raises:
        DatasetError: none there, or one of another version.
    """
    file = path / "dataset.json"
    if not file.is_file():
        raise DatasetError(f"{shown(path)} isn't a dataset (no dataset.json); make one with `synthcxr prepare`")
    try:
        info = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DatasetError(f"{shown(file)} must be JSON ({error}); prepare the dataset again") from error
    version = info.get("schema_version") if isinstance(info, dict) else None
    if version != SCHEMA_VERSION:
        raise DatasetError(
            f"{shown(file)}: schema_version = {version} must be {SCHEMA_VERSION}; prepare the dataset again"
        )
    return info


def in_schema(table: pa.Table) -> pa.Table:
    """A manifest's columns in their order and types; in one from before there were weights, every image weighs 1.

    Raises:
        pa.ArrowException, KeyError: a column is missing or of another kind.
    """
    if "weight" not in table.column_names:
        table = table.append_column("weight", pa.array([1.0] * table.num_rows, pa.float64()))
    return table.select(SCHEMA.names).cast(SCHEMA)


def check_manifest(path: Path, table: pa.Table) -> None:
    """Ids unique, shards inside the folder, splits known and disjoint by patient.

    Raises:
        DatasetError: the rule that is broken, with the first that breaks it.
    """
    unknown = set(pc.unique(table.column("split")).to_pylist()) - set(SPLITS)
    if unknown:
        raise DatasetError(f"{shown(path)}: split = {min(unknown)!r} must be one of {', '.join(SPLITS)}")
    for shard in pc.unique(table.column("shard")).to_pylist():
        if not re.fullmatch(SHARD_PATTERN, shard):
            raise DatasetError(f"{shown(path)}: shard = {shard!r} must be a name such as 00000.tar")
    if pc.count_distinct(table.column("id")).as_py() != table.num_rows:
        raise DatasetError(f"{shown(path)}: an image id comes twice in the manifest; ids must be unique")
    lightest = pc.min(table.column("weight")).as_py()
    if lightest is not None and not lightest > 0:
        raise DatasetError(f"{shown(path)}: weight = {lightest:g} must be > 0")
    splits = table.group_by("patient").aggregate([("split", "count_distinct")])
    shared = splits.filter(pc.greater(splits.column("split_count_distinct"), 1)).column("patient").to_pylist()
    if shared:
        raise DatasetError(
            f"{shown(path)}: patient {shared[0]!r} ({len(shared)} in all) is in more than one split; split by patient"
        )


def counts_of(table: pa.Table) -> dict[str, Any]:
    """Images and patients, in all and in each split."""
    split_counts = Counter(table.column("split").to_pylist())
    pairs = set(zip(table.column("patient").to_pylist(), table.column("split").to_pylist(), strict=True))
    patients = Counter(split for _, split in pairs)
    return {
        "images": table.num_rows,
        "patients": len(pairs),
        "splits": {name: {"images": split_counts[name], "patients": patients[name]} for name in SPLITS},
    }
