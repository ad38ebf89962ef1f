"""`synthcxr synthesize`: a plan into a labelled, screened, synthetic DATASET."""

import errno
import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from tqdm import tqdm

from synthcxr.data.dataset import Dataset, already_made
from synthcxr.data.shard import Part
from synthcxr.data.writer import DatasetWriter, discard, tidy
from synthcxr.errors import ModelError, RunError, UserError, shown
from synthcxr.files import hash_files
from synthcxr.model.folder import CLASSIFIER, EMBEDDED, SCREEN, ModelInfo, hash_of, read_info, resolve
from synthcxr.model.precision import Precision, settled
from synthcxr.runs import Run
from synthcxr.synthesis.acceptance import Result, Tally
from synthcxr.synthesis.config import EngineConfig, SynthesizeConfig
from synthcxr.synthesis.engines import ENGINES
from synthcxr.synthesis.engines.local import devices_of
from synthcxr.synthesis.plan.rows import Plan, open_plan, pinned
from synthcxr.synthesis.screen import open_screen
from synthcxr.synthesis.worker import Opener, ShardJob, Worker

log = logging.getLogger(__name__)

GIVEN_UP = "given_up.jsonl"
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@dataclass(frozen=True)
class Synthesis:
    """What a call made: images drawn by it, and the dataset with what came of it, once all its parts are there."""

    made: int
    dataset: Dataset | None
    result: Result | None


class _Left(Exception):
    """Leaves the writer with its shards as they are; an error of ours makes it tidy up."""


def run(config: SynthesizeConfig, fresh: bool = False, opener: Opener = open_screen) -> Synthesis:
    """Draw what a plan asks for into a DATASET folder; beside it, `<output>.run` is the run folder.

    Killed at any moment, the same command goes on with the shards that aren't there, to the same bytes. With `part`,
    only a range of shards is drawn; the command without it makes the dataset of them, drawing what is missing.

    Args:
        opener: makes the screen, once a worker; it's sent to other processes by its name.
    Raises:
        UserError: a mistake in the plan, a model that isn't there, an output that holds something else, a full disk.
    """
    with _full_disk_told(config.output):
        return _run(pinned_config(config), fresh, opener)


def _run(config: SynthesizeConfig, fresh: bool, opener: Opener) -> Synthesis:
    if fresh:
        discard(config.output, "synthesize")
    done = already_made(config.output, "synthesize", config.told(), config.identity, "another model or plan")
    # What may change from call to call isn't part of the run's config.
    same = config.model_copy(update={"engine": EngineConfig(), "part": None})
    folder = Run.open(config.output.with_name(config.output.name + ".run"), same, "synthesize", fresh)
    made = 0
    if done is None:
        made, done = _synthesize(config, opener, folder)
    if done is None:
        return Synthesis(made, None, None)
    result = Result.model_validate(done.info["result"])
    if not folder.finished:
        tidy(config.output)  # killed as the dataset had just appeared, a writer leaves its parts
        folder.finish(result.model_dump())
    return Synthesis(made, done, result)


@contextmanager
def _full_disk_told(output: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno not in FULL:
            raise
        why = os.strerror(error.errno)  # Arrow's own words are longer
        raise RunError(f"{shown(output)}: the disk is full ({why}); make room, and the same command goes on") from None


def pinned_config(config: SynthesizeConfig) -> SynthesizeConfig:
    """The config with the hashes of model, screen and data, and the precision: all that decides the pictures.

    Raises:
        UserError: they aren't there, or not those that a hash in the config names.
    """
    folder = _folder(config)
    found = hash_of(folder)
    if config.model_hash not in (None, found):
        raise ModelError(f"{shown(folder)} isn't the model whose hash is model_hash; give that one")
    judges = [path for part in (CLASSIFIER, SCREEN) for path in (folder / part).rglob("*") if path.is_file()]
    screen = hash_files(judges) if config.screen else None
    if config.screen_hash not in (None, screen):
        raise ModelError(f"{shown(folder)} doesn't hold the screen whose hash is screen_hash; give that one")
    known = {"model_hash": found, "screen_hash": screen, "plan": pinned(config.plan), "precision": _precision(config)}
    return config.model_copy(update=known)


def _precision(config: SynthesizeConfig) -> Precision:
    engine = config.engine
    return settled(config.precision, engine.gpus > 0 if engine.kind == "ray" else devices_of(engine) != ("cpu",))


def _synthesize(config: SynthesizeConfig, opener: Opener, folder: Run) -> tuple[int, Dataset | None]:
    told, identity = config.told(), config.identity
    plan, info = open_plan(config.plan, config.seed), read_info(_folder(config))
    extra = {"synthesize": told, "config_hash": identity, "audit": {config.model_hash: _audit(config, info)}}
    preprocessing = {"shorter side": f"{info.resolution} pixels, as the model draws"} if info else {}
    writer = DatasetWriter(
        config.output, "synthetic", preprocessing=preprocessing, extra=extra, resume=identity, shared=bool(config.part)
    )
    shards = _Shards(plan, config, writer)
    with _kept(writer):
        made = shards.draw(opener, folder)
        if config.part:
            raise _Left
        tally = Tally(config.model_hash, plan.rows)
        for number in range(len(shards)):
            tally.add(shards.finished(number))
        result = tally.result()
        extra["result"] = result.model_dump()
        extra["synthesize"] = {**told, "acceptance": [row.model_dump() for row in result.acceptance]}
        if tally.given_up:
            writer.attach(GIVEN_UP, tally.given_up_lines())
    return made, None if config.part else writer.dataset


@contextmanager
def _kept(writer: DatasetWriter) -> Iterator[None]:
    """The writer, but that a user's mistake doesn't make it tidy up: its shards stay, to go on with."""
    try:
        with writer:
            try:
                yield
            except UserError as error:
                raise _Left from error
    except _Left as left:
        if left.__cause__:
            raise left.__cause__ from None


class _Shards:
    """The shards of a plan: which are there, and the drawing of those that aren't."""

    def __init__(self, plan: Plan, config: SynthesizeConfig, writer: DatasetWriter) -> None:
        self._config, self._identity, self._writer = config, config.identity, writer
        self._rows_a_group, self._groups = plan.group, plan.rows // plan.group
        self._per_shard = max(1, config.shard_rows // plan.group)  # groups, which are never parted

    def __len__(self) -> int:
        return -(-self._groups // self._per_shard)

    def draw(self, opener: Opener, folder: Run) -> int:
        """Have an engine draw what is missing of `config.part`; returns how many images that made."""
        asked = _share(self._config.part, len(self))
        missing = [number for number in asked if self._writer.part(number, self._identity) is None]
        made, told = 0, set()
        there = sum(self._rows(number) for number in asked) - sum(self._rows(number) for number in missing)
        total = there + sum(self._rows(number) for number in missing)
        with tqdm(total=total, initial=there, desc="synthesize", file=sys.stderr, unit="row", disable=None) as bar:
            config = self._config
            engine, make = ENGINES[config.engine.kind], partial(Worker, config, opener=opener)
            jobs = map(self._job, missing)
            for done in engine(config.engine, config.threads, make, jobs, len(missing)) if missing else ():
                self.finished(done.number)
                bar.update(self._rows(done.number))
                made += done.images
                folder.log("shard", **asdict(done))
                if new := set(done.unseen) - told:
                    told |= new
                    words = ", ".join(map(repr, sorted(new)))
                    log.warning("the model never saw %s; it isn't told, and the labels don't say so", words)
        return made

    def finished(self, number: int) -> Part:
        """The part of a shard that an engine said is done."""
        part = self._writer.part(number, self._identity)
        if part is None:
            raise RunError(
                f"shard {number} isn't beside {shown(self._config.output)} though it was drawn;"
                " all workers must share the folder of the output"
            )
        return part

    def _job(self, number: int) -> ShardJob:
        first = number * self._per_shard
        last = min(first + self._per_shard, self._groups)
        return ShardJob(number, range(first, last), self._writer.shard(number, self._identity))

    def _rows(self, number: int) -> int:
        first = number * self._per_shard
        return (min(first + self._per_shard, self._groups) - first) * self._rows_a_group


def _share(part: str | None, shards: int) -> range:
    """The shards of part i/n: ranges that differ by one in length at most, and make up the whole."""
    index, count = map(int, (part or "1/1").split("/"))
    return range(shards * (index - 1) // count, shards * index // count)


def _folder(config: SynthesizeConfig) -> Path:
    return resolve(EMBEDDED if config.model is None else config.model)


def _audit(config: SynthesizeConfig, info: ModelInfo | None) -> dict[str, Any] | None:
    """What data.origin reads: the model's audit, and whether it holds for these weights and was passed."""
    record = info.audit if info else None
    return record and {
        **record.model_dump(mode="json"),
        "passed": record.passed_by(config.model_hash),
    }
