"""The ImageFolder of Hugging Face `datasets`."""

from synthcxr.synthesis.export.job import METADATA, Job, write_metadata


def imagefolder(job: Job) -> None:
    """`<split>/<id>.png`, and `<split>/metadata.parquet` with a row a file.

    The table is Parquet, which `datasets` reads as it does CSV and JSON lines, but for types: a column that is blank in
    one split would be of another type there, which `datasets` refuses.
    """
    for split in job.splits():
        folder = job.output / split.name
        folder.mkdir(exist_ok=True)
        for record in job.progress(split.records):
            job.write_png(folder / f"{record.id}.png", record)
        write_metadata(folder / METADATA, split.rows, [f"{record.id}.png" for record in split.records])
