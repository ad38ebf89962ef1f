"""Parquet files with images inside, as the Hugging Face hub keeps datasets."""

import json

import pyarrow as pa
import pyarrow.parquet as pq

from synthcxr.files import atomic_path
from synthcxr.synthesis.export.job import FILE_ROWS, Job, Split

IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
GROUP_ROWS = 100  # images that a reader holds at once


def parquet(job: Job) -> None:
    """`data/<split>-NNNNN-of-NNNNN.parquet`: column `image` (bytes and name of a PNG) and the metadata.

    The schema carries the features of `datasets`, so that `image` opens as an Image, with pandas as bytes.
    """
    (job.output / "data").mkdir(exist_ok=True)
    for split in job.splits():
        count = -(-len(split.records) // FILE_ROWS)
        for number, part in enumerate(split.files()):
            path = job.output / "data" / f"{split.name}-{number:05d}-of-{count:05d}.parquet"
            if not path.is_file():
                with atomic_path(path) as temporary:
                    _write(job, part, temporary)


def _write(job: Job, part: Split, path: str) -> None:
    plain = part.rows.schema
    schema = plain.insert(0, pa.field("image", IMAGE)).with_metadata({"huggingface": json.dumps(_features(plain))})
    with pq.ParquetWriter(path, schema) as writer:
        for start in range(0, len(part.records), GROUP_ROWS):
            records = part.records[start : start + GROUP_ROWS]
            images = [{"bytes": job.png(record), "path": f"{record.id}.png"} for record in job.progress(records)]
            rows = part.rows.slice(start, GROUP_ROWS).add_column(0, "image", pa.array(images, IMAGE))
            writer.write_table(rows.cast(schema))


def _features(plain: pa.Schema) -> dict[str, object]:
    """What `datasets` keeps in the schema of its files: see `Features.arrow_schema`."""
    names = {pa.string(): "string", pa.int32(): "int32", pa.int64(): "int64", pa.float64(): "float64"}
    values = {field.name: {"dtype": names[field.type], "_type": "Value"} for field in plain}
    return {"info": {"features": {"image": {"_type": "Image"}, **values}}}
