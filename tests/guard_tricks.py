"""What the workers of test_guard.py do: apart, so that a worker starts without the test's own imports."""

import ctypes
import os
import signal
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from synthcxr.errors import ImageError


@dataclass(frozen=True)
class Job:
    path: Path
    trick: str = ""
    number: int = 0
    size: int = 0


@dataclass(frozen=True, eq=False)
class Outcome:
    pixels: np.ndarray
    data: bytes
    path: Path | None
    sizes: tuple[int, ...]
    share: float
    pid: int
    modules: str


def work(job: Job) -> Outcome:
    """Do what the job's trick says, then give back what shows that the job arrived whole."""
    TRICKS[job.trick](job)
    pixels = np.random.default_rng(job.number).integers(0, 65536, (7, job.number + 1), np.uint16)
    loaded = " ".join(name for name in ("torch", "diffusers", "pydicom") if name in sys.modules)
    return Outcome(pixels, bytes(range(job.number)), job.path, (job.number, 2), 0.5, os.getpid(), loaded)


def _user_error(job):
    raise ImageError(f"{job.path}: the user's own fault")


def _bug(job):
    raise KeyError("two\nlines")


def _once(job):
    if not job.path.exists():
        job.path.touch()
        os.kill(os.getpid(), signal.SIGKILL)


TRICKS = {
    "": lambda job: None,
    "user error": _user_error,
    "bug": _bug,
    "killed": lambda job: os.kill(os.getpid(), signal.SIGKILL),
    "killed once": _once,
    "segfault": lambda job: ctypes.string_at(0),
    "exit": lambda job: os._exit(7),
    "stopped": lambda job: os.kill(os.getpid(), signal.SIGSTOP),
    "sleep": lambda job: time.sleep(600),
    "busy in C": lambda job: sum(range(10**13)),
    "memory": lambda job: np.ones(job.size, np.uint8),
    "noise": lambda job: (os.write(1, b'{"value": 1}\n' * 100), print("noise", flush=True)),
}


def identity(job: Job) -> set:
    return {job.number}
