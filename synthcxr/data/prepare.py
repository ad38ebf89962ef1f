"""`synthcxr prepare`: one source into a DATASET folder, split by patient."""

import json
import logging
import os
import re
import secrets
import sys
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from hashlib import sha256
from itertools import islice
from pathlib import Path
from typing import IO, Any, Literal

from pydantic import Field
from tqdm import tqdm

from synthcxr.config import Config, config_hash
from synthcxr.data.dataset import Dataset, already_made
from synthcxr.data.decode import Decoded, Job, LeftOut, decode
from synthcxr.data.record import SPLITS, Split
from synthcxr.data.shard import EncodedImage, ShardWriter
from synthcxr.data.sources import (
    OWN,
    PIXELS,
    SOURCES,
    PublishedRow,
    Rejected,
    SourceName,
    SourceRow,
    completed,
    own_id,
)
from synthcxr.data.writer import DatasetWriter, tidy
from synthcxr.dicom.guard import Guard, Result
from synthcxr.errors import RunError, SourceError, UserError, shown
from synthcxr.files import atomic_path, write_text
from synthcxr.runs import derive_seed

log = logging.getLogger(__name__)

MAX_BAD_SHARE = 0.05
SHARD_ROWS = 500  # what an interruption may cost
RULES = 2  # counts up when what may enter a dataset changes: what was begun under other rules is begun anew
KEY, NAMES, QUARANTINE = ".key", ".names.jsonl", ".quarantine.jsonl"  # of files beside the dataset
ROWS = {cls.__name__: cls for cls in (SourceRow, PublishedRow, Rejected)}


class PrepareConfig(Config):
    """What `synthcxr prepare` needs; see configs/prepare/."""

    source: SourceName
    root: Path
    output: Path
    split: Literal["hash", "publisher"] = Field(
        "hash", description="by a hash of the patient, or as the publisher splits where there's such a split"
    )
    holdout: float = Field(0.1, ge=0, lt=0.5, description="share of patients kept for validation, and again for test")
    seed: int = 0
    max_size: int | None = Field(None, ge=64, description="largest shorter side in pixels; larger images are reduced")
    workers: int | None = Field(None, ge=1, description="processes; none: as many as there are processors")


def run(config: PrepareConfig) -> Dataset:
    """Read one source into a DATASET folder, splitting by patient.

    What can't be used is listed, with the reason, in `<output>.quarantine.jsonl`. Interrupted, the same command goes
    on with the shard it was at, to the same bytes; finished, it returns the dataset that is there.

    What a source of one's own calls images, patients and studies becomes pseudonyms, made with the secret in
    `<output>.key`: the same secret gives the same names. Which id is which file stands in `<output>.names.jsonl`.

    Raises:
        SourceError: a table or folder that the source's layout asks for is missing (named), more than 5% of the images
            are damaged, or there's none left.
        RunError: the output holds something else, or another process is writing it.
    """
    identity = _identity(config)
    if done := already_made(config.output, "prepare", _resolved(config), identity, "another root"):
        tidy(config.output)  # killed as the dataset had just appeared, a writer leaves its parts
        return done
    shorter_side = f"at most {config.max_size} pixels" if config.max_size else "as in the source files"
    preprocessing = {"max_size": config.max_size, "shorter side": shorter_side}
    if config.source in PIXELS:
        preprocessing["by the publisher"] = PIXELS[config.source]
    extra = {"prepare": _resolved(config), "config_hash": identity}
    with _spooled(config) as (lines, total):
        beside = [_beside(config, suffix) for suffix in (KEY, NAMES, QUARANTINE)]
        writer = DatasetWriter(
            config.output, "real", preprocessing=preprocessing, extra=extra, resume=identity, beside=beside
        )
        with writer, _secret(config) as key:
            _write(config, writer, lines, total, key)
            if config.source in OWN:
                lines.seek(0)
                _names(config, lines, key)
    return writer.dataset


def split_of(patient: str, holdout: float, seed: int = 0) -> Split:
    """The split of a patient: a hash of the id, so that it's the same in any dataset that the patient is in.

    A larger `holdout` only moves patients out of training.
    """
    place = derive_seed(seed, f"split/{patient}") / 2**63
    if place < holdout:
        return "test"
    return "validate" if place >= 1 - holdout else "train"


@contextmanager
def _spooled(config: PrepareConfig) -> Iterator[tuple[IO[str], int]]:
    """The source's rows as lines of a temporary file, and how many: a large source doesn't fit into memory."""
    with tempfile.TemporaryFile("w+", encoding="utf-8") as file:
        total = 0
        for row in SOURCES[config.source](config.root):
            file.write(json.dumps([type(row).__name__, row.model_dump(mode="json")]) + "\n")
            total += 1
        file.seek(0)
        yield file, total


def _write(config: PrepareConfig, writer: DatasetWriter, lines: IO[str], total: int, key: str) -> None:
    left_out: list[dict[str, Any]] = []
    bad = 0
    with (
        Guard(decode, config.workers or os.cpu_count() or 1) as guard,
        tqdm(total=total, desc="prepare", file=sys.stderr, unit="image", disable=None) as bar,
    ):
        for number, chunk in enumerate(iter(lambda: list(islice(lines, SHARD_ROWS)), [])):
            rows = _rows(chunk)
            fingerprint = _fingerprint(chunk, rows, key)
            part = writer.part(number, fingerprint)
            if part is None:
                with writer.shard(number, fingerprint) as shard:
                    _fill(config, shard, rows, guard, key, bar)
                part = writer.part(number, fingerprint)
            else:
                bar.update(len(rows))
            left_out += part.notes
            bad += sum(not item["by_rule"] for item in part.notes)
            if bad > MAX_BAD_SHARE * total:
                break
    _quarantine(config, left_out, bad, total)


def _fill(config: PrepareConfig, shard: ShardWriter, rows: list[Any], guard: Guard, key: str, bar: tqdm) -> None:
    """Decode the rows' files in parallel, and put them into the shard in order."""
    sound = [row for row in rows if not isinstance(row, Rejected)]
    rejected = [row for row in rows if isinstance(row, Rejected)]
    bar.update(len(rejected))
    for row, result in zip(sound, guard.map(Job(row.path, config.max_size) for row in sound), strict=True):
        bar.update()
        kept = _completed(row, result, key)
        if isinstance(kept, Rejected):
            rejected.append(kept)
            continue
        image: Decoded = result.value
        shard.add(
            EncodedImage(image.data, image.width, image.height, image.bits),
            split=_split(row, kept.patient, config),
            native_size=(image.native_width, image.native_height),
            id=kept.id,
            patient=kept.patient,
            study=kept.study,
            condition=kept.condition,
            report=kept.report,
            prompt=kept.prompt,
            source=kept.source,
            licence=kept.licence,
        )
    for item in rejected:
        name, reason = _encodable(_relative(item.path, config.root)), _encodable(item.reason)
        shard.note({"file": name, "reason": reason, "by_rule": item.by_rule})


def _rows(lines: Iterable[str]) -> list[SourceRow | Rejected]:
    return [ROWS[kind].model_validate(row) for kind, row in map(json.loads, lines)]


def _completed(row: SourceRow, result: Result[Job, Decoded | LeftOut], key: str) -> SourceRow | Rejected:
    if result.value is None:
        return Rejected(path=row.path, reason=result.error)
    if isinstance(result.value, LeftOut):
        return Rejected(path=row.path, reason=result.value.reason, by_rule=True)
    return completed(row, result.value.told, key)


def _split(row: SourceRow, patient: str, config: PrepareConfig) -> Split:
    hint = row.split if config.split == "publisher" and isinstance(row, PublishedRow) else None
    if hint in SPLITS:
        return hint
    split = split_of(patient, config.holdout, config.seed)
    # A publisher's "development" has its test elsewhere: what would be test by hash is validation.
    return "validate" if hint == "development" and split == "test" else split


def _fingerprint(chunk: list[str], rows: list[SourceRow | Rejected], key: str) -> str:
    """Of what a shard is made from: an interrupted run doesn't go on over files, rules or a secret that changed."""
    digest = sha256(f"{RULES} {key} {''.join(chunk)}".encode())
    for row in rows:
        if row.path.exists():
            status = row.path.stat()
            digest.update(f"{status.st_size} {status.st_mtime_ns}\n".encode())
    return digest.hexdigest()


@contextmanager
def _secret(config: PrepareConfig) -> Iterator[str]:
    """What pseudonyms are made with: kept beside the dataset, never in it, and only for who may read the images.

    A mistake that ends the run takes a secret of its own making with it; an interruption doesn't.
    """
    if config.source not in OWN:
        yield ""
        return
    path = _beside(config, KEY)
    new = not path.exists()
    if new:
        _write_private(path, [secrets.token_hex(32) + "\n"])
    key = path.read_bytes().strip().decode("utf-8", "replace")
    if not key:
        raise RunError(f"{shown(path)} is empty, and must hold a secret; put it back, or remove the file for a new one")
    try:
        yield key
    except UserError:
        if new:
            path.unlink()
        raise


def _names(config: PrepareConfig, lines: IO[str], key: str) -> None:
    """Tell beside the dataset, and never in it, which file each id stands for: the way back from a pseudonym."""
    rows = (row for line in lines for row in _rows([line]) if not isinstance(row, Rejected))
    named = ({"id": own_id(row, key), "file": _encodable(_relative(row.path, config.root))} for row in rows)
    _write_private(_beside(config, NAMES), (json.dumps(row) + "\n" for row in named))


def _write_private(path: Path, lines: Iterable[str]) -> None:
    """A file, whole or none, that its owner alone may read."""
    with atomic_path(path) as temporary:
        with open(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
            file.writelines(lines)


def _beside(config: PrepareConfig, suffix: str) -> Path:
    return config.output.with_name(config.output.name + suffix)


def _quarantine(config: PrepareConfig, left_out: list[dict[str, Any]], bad: int, total: int) -> None:
    """List what can't be used beside the dataset, and stop where that's too much to be chance."""
    path = _beside(config, QUARANTINE)
    if not left_out:
        path.unlink(missing_ok=True)
        return
    write_text(path, "".join(json.dumps({"file": i["file"], "reason": i["reason"]}) + "\n" for i in left_out))
    log.warning("%d of %d images are left out: see %s", len(left_out), total, shown(path))
    for reason, count in Counter(_kind(item) for item in left_out).most_common(5):
        log.warning("  %d: %s", count, reason)
    if bad > MAX_BAD_SHARE * total:
        first = next(item["reason"] for item in left_out if not item["by_rule"])
        raise SourceError(
            f"{shown(config.root)}: {bad} of {total} images can't be used (at most {MAX_BAD_SHARE:.0%} may);"
            f" see {shown(path)}, the first: {first}"
        )
    if len(left_out) == total:
        raise SourceError(f"{shown(config.root)}: none of the {total} images may be used; {shown(path)} says why")


def _kind(item: dict[str, Any]) -> str:
    """A reason without file, row and what a cell holds: to count by, and fit for a log whoever the file is of."""
    name = " ".join(Path(item["file"]).name.split())  # as in a message, which is one line
    reason = re.sub(r"^.* row \d+: ", "", item["reason"].rpartition(f"{name}: ")[2])
    return re.sub(r"""(?<!\w)('[^']*'|"[^"]*")(?!\w)""", "'...'", reason)


def _relative(path: Path, root: Path) -> str:
    return path.relative_to(root).as_posix() if path.is_relative_to(root) else path.name


def _encodable(text: str) -> str:
    """Names of files in an older encoding than UTF-8, as older archives have them, with their strange bytes escaped."""
    return text.encode("utf-8", "backslashreplace").decode()


def _resolved(config: PrepareConfig) -> dict[str, Any]:
    """What dataset.json tells of the config; names of folders stay out, since a dataset is given away."""
    return config.model_dump(mode="json", exclude={"root", "output", "workers"})


def _identity(config: PrepareConfig) -> str:
    """Hash of all that decides the content but for the secret: the output's own name isn't part of it."""
    changes = {"root": config.root.resolve(), "output": Path(), "workers": None}
    return config_hash(config.model_copy(update=changes))
