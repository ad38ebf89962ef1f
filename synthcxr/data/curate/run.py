"""`synthcxr curate`: DATASET folders in, a curated DATASET out."""

import json
import logging
import sys
from collections.abc import Sequence
from dataclasses import asdict
from hashlib import sha256
from io import BytesIO
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from tqdm import tqdm

from synthcxr.config import config_hash
from synthcxr.data.curate.config import CurateConfig
from synthcxr.data.curate.decide import Curation, Extractor, decide, open_inputs
from synthcxr.data.curate.ledger import to_table
from synthcxr.data.curate.plot import plot
from synthcxr.data.curate.summary import markdown, one_line
from synthcxr.data.dataset import Dataset, already_made
from synthcxr.data.writer import DatasetWriter, tidy

log = logging.getLogger(__name__)

SHARD_ROWS = 500


def run(config: CurateConfig, extract: Extractor | None = None) -> Dataset:
    """Copy what is worth keeping of DATASET folders into a new one, images byte for byte and splits as they are.

    Beside the images kept, with their weights, the folder holds curation.parquet (every decision, a row an image of the
    input), curation.md and curation.png (counts before and after). The same command again returns what is there.

    Args:
        extract: features that pruning compares; None: the pixels of small pictures.
    Raises:
        DatasetError: no dataset, ones that contradict each other, or columns that can't be made independent.
        RunError: the output holds something else.
    """
    datasets = open_inputs(config)
    identity = _identity(config, datasets, extract)
    if done := already_made(config.output, "curate", _resolved(config), identity, "other inputs"):
        tidy(config.output)  # killed as the dataset had just appeared, a writer leaves its parts
        return done
    curation = decide(config, datasets, extract)
    extra = {
        "curate": {**_resolved(config), "compared": _compared(config, extract), "summary": asdict(curation.summary)},
        "inputs": [{"manifest_sha256": d.hash, **_history(d)} for d in datasets],
        "config_hash": identity,
    }
    origin, preprocessing = datasets[0].info["origin"], _preprocessing(datasets)
    with DatasetWriter(config.output, origin, preprocessing=preprocessing, extra=extra, resume=identity) as writer:
        _copy(curation, writer)
        table = BytesIO()
        pq.write_table(to_table(curation.decisions), table, compression="zstd")
        writer.attach("curation.parquet", table.getvalue())
        writer.attach("curation.md", markdown(curation.summary).encode())
        writer.attach("curation.png", plot(curation.summary))
    log.info(one_line(curation.summary))
    return writer.dataset


def _copy(curation: Curation, writer: DatasetWriter) -> None:
    kept = [(*image, d.weight) for image, d in zip(curation.images, curation.decisions, strict=True) if d.kept]
    with tqdm(total=len(kept), desc="copy", file=sys.stderr, unit="image", disable=None) as bar:
        for number, start in enumerate(range(0, len(kept), SHARD_ROWS)):
            rows = kept[start : start + SHARD_ROWS]
            key = sha256("".join(f"{r.id} {r.sha256} {weight!r}\n" for _, r, weight in rows).encode()).hexdigest()
            if writer.part(number, key) is None:
                with writer.shard(number, key) as shard:
                    for dataset, record, weight in rows:
                        shard.copy(record, dataset.read_bytes(record), weight)
            bar.update(len(rows))


def _preprocessing(datasets: Sequence[Dataset]) -> dict[str, Any]:
    """What was done to the pixels; what differs between the inputs is said of each."""
    given = [dataset.info["preprocessing"] for dataset in datasets]
    merged = {}
    for key in dict.fromkeys(key for one in given for key in one):
        values = [one.get(key) for one in given]
        merged[key] = values[0] if all(value == values[0] for value in values) else "; ".join(map(str, values))
        if isinstance(merged[key], str) and len(values) > 1 and merged[key] != values[0]:
            log.warning("data: the inputs differ in %s (%s)", key, merged[key])
    return merged


def _history(dataset: Dataset) -> dict[str, Any]:
    return {
        key: dataset.info[key] for key in ("prepare", "synthesize", "audit", "curate", "inputs") if key in dataset.info
    }


def _resolved(config: CurateConfig) -> dict[str, Any]:
    """What dataset.json tells of the config; names of folders stay out, since a dataset is given away."""
    return config.model_dump(mode="json", exclude={"data", "output", "model", "features"})


def _compared(config: CurateConfig, extract: Extractor | None) -> str | None:
    """Which features decided; None where none did."""
    return (extract.name if extract else "pixels") if config.prune else None


def _identity(config: CurateConfig, datasets: Sequence[Dataset], extract: Extractor | None) -> str:
    """Hash of all that decides the content: neither where the inputs lie nor the output's own name."""
    inputs = [dataset.hash for dataset in datasets]
    told = json.dumps([inputs, _compared(config, extract)])
    same = config.model_copy(update={"data": (Path(),), "output": Path(), "model": None, "features": "auto"})
    return sha256(f"{config_hash(same)} {told}".encode()).hexdigest()
