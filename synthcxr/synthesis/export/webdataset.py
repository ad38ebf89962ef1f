"""WebDataset tars, a set for each split."""

import json
import tarfile

from synthcxr.data.shard import append
from synthcxr.files import atomic_path
from synthcxr.synthesis.export.job import METADATA, Job, metadata, prompt_of, write_metadata


def webdataset(job: Job) -> None:
    """`<split>-NNNNNN.tar` with `<id>.png`, `<id>.json` (its row of metadata) and `<id>.txt` (its prompt).

    These three need no decoder that runs code (webdataset's for `.pyd` and `.pickle` do). All rows stand in
    metadata.parquet, too.
    """
    for split in job.splits():
        for number, part in enumerate(split.files()):
            path = job.output / f"{split.name}-{number:06d}.tar"
            if path.is_file():
                continue
            rows = part.rows.to_pylist()
            with atomic_path(path) as temporary, tarfile.open(temporary, "w", format=tarfile.USTAR_FORMAT) as tar:
                for record, row in zip(job.progress(part.records), rows, strict=True):
                    append(tar, f"{record.id}.png", job.png(record))
                    append(tar, f"{record.id}.json", json.dumps(row, ensure_ascii=False).encode())
                    append(tar, f"{record.id}.txt", prompt_of(record).encode())
    write_metadata(job.output / METADATA, metadata(job.dataset.table), [f"{record.id}.png" for record in job.records])
