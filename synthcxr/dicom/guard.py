"""Run a function over untrusted files in processes that may crash, hang or run out of memory without harm.

A worker is a fresh interpreter that imports the function's module and nothing else. Requests and replies are lines of
JSON over pipes; arrays and bytes go through files that have no name, at one copy a side. Nothing is pickled.
"""

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
import typing
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import numpy as np

from synthcxr.dicom.guard_worker import CLOCK, TOO_LONG, pack, unpack
from synthcxr.errors import UserError, shown

Item = TypeVar("Item")
Value = TypeVar("Value")

QUEUE = 2  # items a worker holds: the one it works on, and the next
AHEAD = 3  # items a worker may be ahead of what was taken
REQUEST_BYTES = 1 << 15  # QUEUE requests fit into any pipe, so writing one never blocks
KEPT_BYTES = 1 << 25  # of a shared file, from one item to the next
START_SECONDS = 60.0
PATIENCE_SECONDS = 5.0  # beyond the time that a worker lets pass itself
STARTS = 3  # workers in a row that may end before they are ready
_BOOT = (
    "import json, sys; given = json.loads(sys.argv[1]); sys.path[:] = given.pop('path'); "
    "from synthcxr.dicom.guard_worker import serve; serve(**given)"
)
_ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
_END = object()


@dataclass(frozen=True)
class Result(Generic[Item, Value]):
    """What became of one item: its value, or one line that says why there is none."""

    item: Item
    value: Value | None = None
    error: str | None = None


@dataclass
class _Task:
    place: int
    item: Any
    deaths: int = 0
    slot: int = 0


class Guard(Generic[Item, Value]):
    """Workers that call `function(item)` for each item; a context manager.

    Args:
        function: one that its module holds by name, annotated. It takes a string, number, path or dataclass of these,
            and returns such a one, which may also hold arrays, bytes and tuples (a list comes back as a tuple).
        workers: processes.
        memory: bytes an item may take above what a worker has after its imports.
        timeout: seconds of processor time an item may take; by the clock it may take CLOCK times as long, so that
            what is refused doesn't depend on what else the machine does.
        name: what messages call an item; by default it, or its `path`.
    """

    def __init__(
        self,
        function: Callable[[Item], Value],
        workers: int = 1,
        memory: int = 2**30,
        timeout: float = 10.0,
        name: Callable[[Item], str] | None = None,
    ) -> None:
        name_in_module, hints = function.__qualname__, typing.get_type_hints(function)
        if not name_in_module.isidentifier() or function.__module__ == "__main__" or not hints.keys() - {"return"}:
            raise ValueError(f"{name_in_module} must be an annotated function that an importable module holds by name")
        if workers < 1 or memory < 1 or timeout <= 0:
            raise ValueError(f"workers = {workers}, memory = {memory}, timeout = {timeout} must be positive")
        self.function, self.workers, self.memory, self.timeout = function, workers, memory, timeout
        self._name = name or (lambda item: shown(str(getattr(item, "path", item))))
        self._returns = hints.get("return")
        self._pool: list[_Worker] = []
        self._failed_starts = 0
        self._mapping = False

    def __enter__(self) -> "Guard[Item, Value]":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """End all workers at once."""
        while self._pool:
            self._pool.pop().end()

    def map(self, items: Iterable[Item]) -> Iterator[Result[Item, Value]]:
        """The items' results, in the items' order, worked out at most AHEAD items a worker before they are taken.

        A worker that dies is replaced. The item it worked on is tried once more, as the new one's first, since the
        blame may lie with an earlier item or with whoever killed it. An item that took too long isn't.

        Raises:
            RuntimeError: workers can't be started (says why), or another `map` of this guard isn't done.
        """
        if self._mapping:
            raise RuntimeError("this guard is in the middle of another map")
        self._mapping = True
        todo, done, given, taken = iter(items), dict[int, Result[Item, Value]](), 0, 0
        try:
            while True:
                while todo is not None and given - taken < AHEAD * self.workers and self._has_room():
                    item = next(todo, _END)
                    if item is _END:
                        todo = None
                    else:
                        self._idlest().give(_Task(given, item))
                        given += 1
                if taken in done:
                    yield done.pop(taken)
                    taken += 1
                elif taken < given:
                    self._wait(done)
                else:
                    return
        finally:
            self._mapping = False
            for worker in [worker for worker in self._pool if worker.tasks]:  # left off in the middle
                self._pool.remove(worker)
                worker.end()

    def _has_room(self) -> bool:
        return len(self._pool) < self.workers or any(len(worker.tasks) < QUEUE for worker in self._pool)

    def _idlest(self) -> "_Worker":
        worker = min(self._pool, key=lambda worker: len(worker.tasks), default=None)
        if worker is None or (worker.tasks and len(self._pool) < self.workers):
            worker = self._start()
        return worker

    def _start(self) -> "_Worker":
        worker = _Worker(self.function, self.memory, self.timeout)
        self._pool.append(worker)
        return worker

    def _wait(self, done: dict[int, Result[Item, Value]]) -> None:
        """Sleep until a worker answers, ends or is overdue; what comes of it goes to `done`, by place."""
        poll = select.poll()
        for worker in self._pool:
            poll.register(worker.replies, select.POLLIN)
        first = min(worker.deadline for worker in self._pool if worker.tasks)
        ready = {number for number, _ in poll.poll(max(0.0, first - time.monotonic()) * 1000 + 1)}
        for worker in list(self._pool):
            if worker.replies in ready:
                for reply in worker.read():
                    self._take(worker, reply, done)
                if worker.ended:
                    self._replace(worker, done)
            elif worker.tasks and worker.deadline < time.monotonic():  # stopped, or stuck in the kernel
                worker.overdue = True
                self._replace(worker, done)

    def _take(self, worker: "_Worker", reply: dict[str, Any], done: dict[int, Result[Item, Value]]) -> None:
        worker.set_deadline()
        if "failed" in reply:
            raise RuntimeError(f"workers for {self.function.__qualname__} can't start: {reply['failed']}")
        if "ready" in reply:
            self._failed_starts, worker.ready = 0, True
            return
        task = worker.tasks.popleft()
        if "value" in reply:
            value = unpack(self._returns, reply["value"], worker.payload(task.slot, reply["bytes"]))
            done[task.place] = Result(task.item, value)
        elif "error" in reply:
            done[task.place] = Result(task.item, error=reply["error"])
        else:
            done[task.place] = self._refusal(task, reply["reason"])
        if "last" in reply:
            worker.retired = worker.ended = True

    def _replace(self, worker: "_Worker", done: dict[int, Result[Item, Value]]) -> None:
        """Start another worker in place of one that ended, and give it what was left to do."""
        self._pool.remove(worker)
        code = worker.end(grace=0.0 if worker.overdue else 1.0)
        cause = signal.Signals(-code).name if code is not None and code < 0 else f"exit code {code}"
        if not worker.ready:
            self._failed_starts += 1
            if self._failed_starts == STARTS:
                raise RuntimeError(f"workers for {self.function.__qualname__} end before they are ready ({cause})")
        elif worker.tasks and not worker.retired:
            task = worker.tasks[0]
            task.deaths += 1
            late = worker.overdue or code in (-number for number in TOO_LONG)
            if late or task.deaths == 2:
                worker.tasks.popleft()
                reason = f"takes longer than {self.timeout:g} s" if late else f"crashes its decoder ({cause})"
                done[task.place] = self._refusal(task, reason)
        if worker.tasks:
            successor = self._start()
            for task in worker.tasks:
                successor.give(task)

    def _refusal(self, task: _Task, reason: str) -> Result[Item, Value]:
        line = UserError(f"{self._name(task.item)}: {reason}; replace or remove it")
        return Result(task.item, error=str(line))


class _Worker:
    """One process, the parent's side: what it was given, and the pipes and files shared with it."""

    def __init__(self, function: Callable[..., Any], memory: int, timeout: float) -> None:
        self.tasks: deque[_Task] = deque()
        self.ready = self.ended = self.overdue = self.retired = False
        self.deadline = time.monotonic() + START_SECONDS
        # The worker's own timers end it; this is for one that was stopped or hangs in the kernel.
        self._patience = CLOCK * timeout + PATIENCE_SECONDS
        self._given = 0
        self._heard = b""
        self._files = [_nameless_file() for _ in range(QUEUE)]
        told = {
            "path": sys.path, "module": function.__module__, "name": function.__qualname__, "memory": memory,
            "timeout": timeout, "parent": os.getpid(), "files": self._files,
        }  # fmt: skip
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-c", _BOOT, json.dumps(told)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, bufsize=0,
            pass_fds=self._files, env={**os.environ, **_ONE_THREAD},
        )  # fmt: skip
        self.replies = self._process.stdout.fileno()

    def give(self, task: _Task) -> None:
        task.slot = self._given % QUEUE  # never the file of a reply that isn't read yet
        self._given += 1
        if self.ready and not self.tasks:
            self.set_deadline()
        self.tasks.append(task)
        request = json.dumps({"item": pack(task.item, []), "slot": task.slot}).encode() + b"\n"
        if len(request) > REQUEST_BYTES:
            raise ValueError(f"an item of {len(request)} bytes is too large; at most {REQUEST_BYTES} may be")
        with contextlib.suppress(BrokenPipeError):  # its end shows where replies are read
            self._process.stdin.write(request)

    def read(self) -> Iterator[dict[str, Any]]:
        """The replies that have come, once there is something to read; sets `ended` where no more will come that
        makes sense."""
        chunk = os.read(self.replies, 1 << 16)
        self.ended = not chunk
        *lines, self._heard = (self._heard + chunk).split(b"\n")
        for line in lines:
            try:
                yield json.loads(line)
            except ValueError:
                self.ended = True
                return

    def payload(self, slot: int, size: int) -> np.ndarray:
        """A copy of the arrays and bytes of a reply: uint8 (size,)."""
        data = np.empty(size, np.uint8)
        got = 0
        while got < size:
            count = os.preadv(self._files[slot], [data[got:]], got)
            if not count:
                raise EOFError(f"a worker announced {size} bytes and wrote {got}")
            got += count
        if size > KEPT_BYTES:
            os.ftruncate(self._files[slot], 0)
        return data

    def set_deadline(self) -> None:
        self.deadline = time.monotonic() + self._patience

    def end(self, grace: float = 0.0) -> int | None:
        """Kill the process if it doesn't end by itself within `grace` seconds; its exit code, None if it can't die."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(grace)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.kill()
            self._process.wait(5.0)
        self._process.stdin.close()
        self._process.stdout.close()
        while self._files:
            os.close(self._files.pop())
        return self._process.returncode


def _nameless_file() -> int:
    if hasattr(os, "memfd_create"):
        return os.memfd_create("synthcxr")
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())
