"""Run folders: what was run, with what, and what came of it; files that appear only when whole; seeds; stop signals."""

import contextlib
import hashlib
import importlib.metadata
import json
import math
import os
import platform
import secrets
import shutil
import signal
import subprocess
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from enum import Enum
from pathlib import Path
from types import FrameType
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from synthcxr.config import dump_config
from synthcxr.errors import RunError, UserError, shown

PACKAGES = (
    "synthcxr torch diffusers transformers accelerate numpy pillow pyarrow pydantic gradio "
    "torchmetrics scikit-learn scipy"
).split()
TEMPORARY_PREFIX = ".tmp-"


@contextlib.contextmanager
def atomic_path(path: Path | str) -> Iterator[Path]:
    """Give a temporary sibling to write, file or folder; it takes the final name only when the block ends well.

    The temporary name ends like the final one, so writers that go by the extension work. A file replaces an existing
    file; a folder replaces nothing but an empty folder. On failure, interrupts included, the temporary one is removed.

    Raises:
        RunError: the final name is a folder with something in it, or its parent can't be made (said before any work).
        FileNotFoundError: the block wrote nothing.
    """
    path = Path(path)
    if path.is_dir() and any(path.iterdir()):
        raise RunError(f"{shown(path)} is a folder that is not empty; remove it or give another name")
    _make_folder(path.parent)
    temporary = path.with_name(f"{TEMPORARY_PREFIX}{secrets.token_hex(4)}-{path.name}")
    try:
        yield temporary
        publish(temporary, path)
    finally:
        remove(temporary)  # nothing is left under this name unless the block failed


def publish(temporary: Path, path: Path) -> None:
    """Give what was written, file or folder, its final name, once it's safe on the disk."""
    if temporary.is_dir():
        for file in sorted(temporary.rglob("*")):
            _fsync(file)
    _fsync(temporary)
    os.replace(temporary, path)
    _fsync(path.parent)


@contextlib.contextmanager
def only_writer(path: Path | str) -> Iterator[None]:
    """While entered, no other process can enter for the same `path`; one that ends in whatever way leaves it.

    A lock on a hidden file beside it, which the system lets go of with the process: what a killed one left of the file
    keeps nobody out.

    Raises:
        RunError: another process has entered.
    """
    import fcntl  # of POSIX systems; what only draws pictures works without

    path = Path(path)
    _make_folder(path.parent)
    lock = path.with_name(f"{TEMPORARY_PREFIX}{path.name}.lock")
    while True:
        descriptor = os.open(lock, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            raise RunError(f"{shown(path)} is being written by another process; wait for it, or give another") from None
        if lock.exists() and os.path.samestat(os.fstat(descriptor), os.stat(lock)):
            break
        os.close(descriptor)  # of a process that ended in between and took the file away
    try:
        yield
    finally:
        lock.unlink(missing_ok=True)  # before letting go: nobody must lock a file that is about to go
        os.close(descriptor)


def write_bytes(path: Path | str, data: bytes) -> None:
    """Write a whole file or none."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(data)


def write_text(path: Path | str, text: str) -> None:
    """Write a whole UTF-8 file or none."""
    write_bytes(path, text.encode("utf-8"))


def write_json(path: Path | str, value: Any) -> None:
    """Write a whole JSON file or none; a number that is not finite becomes null, since JSON has no word for it."""
    write_text(path, json.dumps(_plain(value), indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def sha256_file(path: Path | str) -> str:
    """sha256 of a file's bytes, 64 hex digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def hash_files(paths: Iterable[Path | str], digest: Callable[[Path], str] = sha256_file) -> str:
    """sha256 over the names and contents of files, 64 hex digits.

    The order given and where the files' common folder lies don't count; their names below it do.
    """
    files = sorted({Path(path).absolute() for path in paths})
    if not files:
        return hashlib.sha256().hexdigest()
    root = os.path.commonpath([file.parent for file in files])
    lines = sorted(f"{file.relative_to(root).as_posix()}\0{digest(file)}\n" for file in files)
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def derive_seed(seed: int, name: str) -> int:
    """A seed in [0, 2**63) that depends on the run's seed and a name (a sample's id, a purpose) and on nothing else."""
    digest = hashlib.sha256(f"{seed}:{name}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


class Run:
    """One run folder: config.yaml (resolved), environment.json, log.jsonl, and result.json once it is finished.

    Where several processes share a run, the main one opens it.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.config_path = folder / "config.yaml"
        self.environment_path = folder / "environment.json"
        self.log_path = folder / "log.jsonl"
        self.result_path = folder / "result.json"

    @classmethod
    def open(
        cls, output: Path | str, config: BaseModel, command: str, fresh: bool = False, may_change: Sequence[str] = ()
    ) -> "Run":
        """Begin a run in `output`, or resume the one that the same configuration began there.

        Args:
            command: what is run ("train"), for the record.
            may_change: key paths whose new values an unfinished run takes over.
            fresh: start over: everything the earlier run left in the folder is removed; what lay there before it stays.
        Raises:
            RunError: `output` holds a run made with another configuration, or is no folder.
        """
        run = cls(Path(output))
        _make_folder(run.folder)
        if fresh and run.config_path.exists():
            run._clear()
        resumed = run.config_path.exists()
        if resumed:
            run._check_same(config, () if run.finished else may_change)
        else:
            # The configuration is written last: a folder that has one is a whole run folder.
            before = sorted({entry.name for entry in run.folder.iterdir()} - {run.environment_path.name})
            if run.result_path.exists():
                raise RunError(f"{shown(run.result_path)} is not of this run; give another output")
            write_json(run.environment_path, {"command": command, **environment(), "lay_here_before": before})
            write_text(run.config_path, dump_config(config))
        if not run.finished:  # a finished one is left as it is
            run._end_last_line()
            run.log("resume" if resumed else "start", command=command)
        return run

    @property
    def finished(self) -> bool:
        """Whether `finish` was reached, in this process or an earlier one."""
        return self.result_path.exists()

    @property
    def result(self) -> dict[str, Any]:
        """What `finish` was given. Raises RunError where the run is not finished."""
        if not self.finished:
            raise RunError(f"{shown(self.folder)} holds a run that is not finished; run the same command again")
        return json.loads(self.result_path.read_text(encoding="utf-8"))

    def log(self, event: str, **fields: Any) -> None:
        """Append one JSON line: UTC time, event and the fields; a number that is not finite becomes null."""
        now = datetime.now(UTC).isoformat(timespec="milliseconds")
        line = json.dumps(_plain({"time": now, "event": event, **fields}), ensure_ascii=False, allow_nan=False)
        with open(self.log_path, "a", encoding="utf-8") as file:
            file.write(line + "\n")

    def finish(self, result: Mapping[str, Any]) -> None:
        """Write result.json, whole or not at all; the run is finished from then on."""
        self.log("finish")
        write_json(self.result_path, dict(result))

    def _check_same(self, config: BaseModel, may_change: Sequence[str]) -> None:
        now = config.model_dump(mode="json")
        try:
            old = yaml.safe_load(self.config_path.read_text(encoding="utf-8"))
            # Read as today's class, an older run gets the defaults of the keys that it did not have yet.
            with contextlib.suppress(ValidationError, UserError):
                old = type(config).model_validate(old).model_dump(mode="json")
        except (OSError, yaml.YAMLError, UnicodeDecodeError):
            raise RunError(f"{shown(self.config_path)} can't be read; give another output or --fresh") from None
        changes = list(_differences(old, now))
        if refused := [f"{key} {before}, now {after}" for key, before, after in changes if key not in may_change]:
            holds = f"{shown(self.folder)} holds a run made with another config ({refused[0]})"
            raise RunError(f"{holds}; give another output or --fresh")
        if changes:
            self.log("change", **{key: after for key, _, after in changes})
            write_text(self.config_path, dump_config(config))

    def _clear(self) -> None:
        """Remove what the run made. A config.yaml without our environment.json is somebody else's: hands off."""
        try:
            keep = json.loads(self.environment_path.read_text(encoding="utf-8"))["lay_here_before"]
        except (OSError, ValueError, KeyError, TypeError):
            name = shown(self.folder)
            raise RunError(f"{name} was not made by a run, so --fresh won't empty it; give another output") from None
        made = {entry.name for entry in self.folder.iterdir()} - set(keep)
        # Interrupted in between, what is left is still a run folder, and one that is not finished.
        last = [path.name for path in (self.config_path, self.environment_path)]
        for name in [self.result_path.name, *sorted(made - {*last, self.result_path.name}), *last]:
            remove(self.folder / name)

    def _end_last_line(self) -> None:
        """A killed process may have left half a line; the next one must not be glued to it."""
        with open(self.log_path, "ab+") as file:
            if file.seek(0, os.SEEK_END) and (file.seek(-1, os.SEEK_END), file.read(1))[1] != b"\n":
                file.write(b"\n")


def environment() -> dict[str, Any]:
    """Python, platform, versions of the main packages that are installed, and the git commit when in a checkout."""
    versions = {}
    for package in PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[package] = importlib.metadata.version(package)
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "processors": os.cpu_count(),
        "packages": versions,
        "git_commit": _git_commit(Path(__file__).resolve().parents[1]),
    }


def _git_commit(checkout: Path) -> str | None:
    """The commit, "+changes" where files differ from it; None outside a checkout of this very project."""
    if not (checkout / ".git").exists():
        return None
    git = ["git", "-C", str(checkout)]
    try:
        commit = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, timeout=10, check=True)
        changes = subprocess.run([*git, "diff", "--quiet", "HEAD"], capture_output=True, timeout=10)
    except (OSError, subprocess.SubprocessError):
        return None
    return commit.stdout.strip() + ("+changes" if changes.returncode else "")


class StopFlag:
    """While entered, SIGTERM and SIGINT set `requested` instead of ending the process; a second SIGINT interrupts.

    Outside the main thread Python allows no handlers, and this does nothing.
    """

    def __init__(self) -> None:
        self.requested = False
        self._old: dict[int, Any] = {}

    def __enter__(self) -> "StopFlag":
        if threading.current_thread() is threading.main_thread():
            self._old = {number: signal.signal(number, self._on_signal) for number in (signal.SIGTERM, signal.SIGINT)}
        return self

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._old.items():
            # None stands for a handler that was not installed from Python, which can't be put back.
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        self._old = {}

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if self.requested and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.requested = True


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(f"{shown(folder)} can't be made a folder ({error.strerror}); give another output") from None


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove(path: Path) -> None:
    """Remove a file, a link or a whole folder; nothing there is fine."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _plain(value: Any) -> Any:
    """What JSON can hold: models, enums, paths and numpy or torch numbers turned into it, not-finite to null."""
    if isinstance(value, BaseModel | Enum):
        return _plain(value.model_dump(mode="json") if isinstance(value, BaseModel) else value.value)
    if isinstance(value, Mapping):
        return {str(_plain(key)): _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(inner) for inner in value]
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if value is None or isinstance(value, int | str):
        return value
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if hasattr(value, "tolist"):  # numpy and torch scalars and arrays, without importing either
        return _plain(value.tolist())
    raise TypeError(f"{type(value).__name__} can't be written as JSON")


def _differences(old: Any, new: Any, name: str = "") -> Iterator[tuple[str, Any, Any]]:
    """(key path, old value, new value) of what changed, in the order of the new configuration."""
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        for key in [*new, *(key for key in old if key not in new)]:
            inner = f"{name}.{key}" if name else str(key)
            yield from _differences(old.get(key, "unset"), new.get(key, "unset"), inner)
    elif old != new:
        yield name or "config", old, new
