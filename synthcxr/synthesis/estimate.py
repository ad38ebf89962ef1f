"""`synthcxr synthesize --dry-run`: the plan as a table, and what it will take, from a few pictures drawn for it."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

from synthcxr.data.writer import DatasetWriter
from synthcxr.synthesis.config import SynthesizeConfig
from synthcxr.synthesis.engines.local import default_workers, devices_of
from synthcxr.synthesis.plan.permutation import Permutation
from synthcxr.synthesis.plan.rows import Rows, open_plan
from synthcxr.synthesis.plan.table import table
from synthcxr.synthesis.run import pinned_config
from synthcxr.synthesis.screen import open_screen
from synthcxr.synthesis.worker import Opener, ShardDone, ShardJob, Worker

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
    # Rows from all over the plan, since some conditions are drawn again more often than others.
    groups = max(1, min(PICTURES, config.batch_size, len(rows)) // rows.plan.group)
    places = list(map(Permutation(rows.groups, "estimate"), range(min(groups, rows.groups))))
    _measured(worker, places[:1])  # the first picture also pays for what the next ones find ready
    done, size = _measured(worker, places)
    seconds = done.seconds / done.drawn
    again = done.drawn / (len(places) * rows.plan.group)
    workers = config.engine.workers or default_workers(config.threads, devices)
    yield ""
    if done.unseen:
        yield f"the model never saw {', '.join(map(repr, done.unseen))}: it isn't told, and labels won't say so"
    took = f"{len(places) * rows.plan.group} rows took {done.drawn} pictures, and {done.given_up} rows were given up"
    yield f"{seconds:.2f} seconds a picture; {took}"
    yield f"time: {_hours(seconds * again * len(rows) / workers)} with {workers} workers that don't slow each other"
    bytes_a_row = size / (len(places) * rows.plan.group)
    yield f"disk: {bytes_a_row * len(rows) / 1e9:.3f} GB, {bytes_a_row / 1000:.0f} kB a row"


def _measured(worker: Worker, groups: list[int]) -> tuple[ShardDone, int]:
    """A shard that is thrown away: what came of it, and its bytes."""
    with tempfile.TemporaryDirectory() as folder:
        with DatasetWriter(Path(folder) / "out", "synthetic") as writer:
            done = worker(ShardJob(0, groups, writer.shard(0)))
        return done, sum(path.stat().st_size for path in (Path(folder) / "out" / "shards").iterdir())


def _hours(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
