"""Run folders: what was run, with what, and what came of it; seeds; stop signals."""

import contextlib
import hashlib
import importlib.metadata
import json
import os
import platform
import signal
import subprocess
import threading
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from synthcxr.config import dump_config
from synthcxr.errors import RunError, UserError, shown
from synthcxr.files import make_folder, plain, remove, write_json, write_text

PACKAGES = (
    "synthcxr torch diffusers transformers accelerate numpy pillow pyarrow pydantic gradio "
    "torchmetrics scikit-learn scipy"
).split()


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
        make_folder(run.folder)
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
        line = json.dumps(plain({"time": now, "event": event, **fields}), ensure_ascii=False, allow_nan=False)
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


def _differences(old: Any, new: Any, name: str = "") -> Iterator[tuple[str, Any, Any]]:
    """(key path, old value, new value) of what changed, in the order of the new configuration."""
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        for key in [*new, *(key for key in old if key not in new)]:
            inner = f"{name}.{key}" if name else str(key)
            yield from _differences(old.get(key, "unset"), new.get(key, "unset"), inner)
    elif old != new:
        yield name or "config", old, new
