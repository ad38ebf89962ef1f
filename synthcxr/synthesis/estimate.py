"""`synthcxr synthesize --dry-run`: the plan as a table, and what it will take, from a few pictures drawn for it."""

import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from synthcxr.data.writer import DatasetWriter
from synthcxr.synthesis.config import SynthesizeConfig
from synthcxr.synthesis.engines.local import default_workers, devices_of
from synthcxr.synthesis.plan.rows import Rows, open_plan
from synthcxr.synthesis.plan.table import table
from synthcxr.synthesis.run import pinned_config
from synthcxr.synthesis.screen import open_screen
from synthcxr.synthesis.worker import Opener, ShardJob, Worker

PICTURES = 8


def report(config: SynthesizeConfig, opener: Opener = open_screen) -> Iterator[str]:
    """The lines of a dry run. Nothing is left on the disk.

    Raises:
        UserError: as of `run`.
    """
    config = pinned_config(config)
    rows = Rows(open_plan(config.plan, config.seed), config.row_name, config.seed)
    yield from table(rows)
    devices = devices_of(config.engine)
    worker = Worker(config, devices[0], opener)
    _, unseen = _measured(worker, 1)  # the first picture also pays for what the next ones find ready
    groups = max(1, min(PICTURES, config.batch_size, len(rows)) // rows.plan.group)
    began = time.perf_counter()
    size, more = _measured(worker, groups)
    drawn = groups * rows.plan.group
    seconds = (time.perf_counter() - began) / drawn
    workers = config.engine.workers or default_workers(config.threads, devices)
    yield ""
    if words := sorted({*unseen, *more}):
        yield f"the model never saw {', '.join(map(repr, words))}: it isn't told, and labels won't say so"
    yield f"{seconds:.2f} seconds and {size / 1000:.0f} kB a picture ({drawn} drawn; retries apart)"
    yield f"time: {_hours(seconds * len(rows) / workers)} with {workers} workers that don't slow each other"
    yield f"disk: {size * len(rows) / 1e9:.3f} GB"


def _measured(worker: Worker, groups: int) -> tuple[float, tuple[str, ...]]:
    """Bytes a picture, and words the model never saw, of a shard that is thrown away."""
    with tempfile.TemporaryDirectory() as folder:
        with DatasetWriter(Path(folder) / "out", "synthetic") as writer:
            done = worker(ShardJob(0, 0, groups, writer.shard(0)))
        size = sum(path.stat().st_size for path in (Path(folder) / "out" / "shards").iterdir())
    return size / max(1, done.images), done.unseen


def _hours(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
