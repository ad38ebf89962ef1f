"""The other side of `guard.Guard`: what runs in a worker, and the form in which values travel.

A value travels as JSON; its arrays and bytes lie in a file that both sides hold open, and JSON says where.
"""

import importlib
import json
import math
import os
import resource
import select
import signal
import traceback
import typing
from collections.abc import Callable, Iterator
from dataclasses import fields, is_dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from synthcxr.errors import UserError

ALIGNMENT = 16
CLOCK = 4  # times its processor time an item may take by the clock, for a machine that is busy with other work
TOO_LONG = (signal.SIGPROF, signal.SIGALRM)
PARENT_CHECK_SECONDS = 5.0


def pack(value: Any, buffers: list[tuple[int, np.ndarray]]) -> Any:
    """`value` as JSON can hold it; its arrays and bytes go to `buffers`, each with its offset.

    Raises:
        TypeError: something else than strings, numbers, None, paths, arrays of numbers, bytes, tuples or dataclasses.
    """
    if value is None or isinstance(value, str | int | float):
        return value
    if is_dataclass(value):
        return {field.name: pack(getattr(value, field.name), buffers) for field in fields(value)}
    if isinstance(value, tuple | list):
        return [pack(inner, buffers) for inner in value]
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, bytes):
        return {"@": ["bytes", [len(value)], _place(np.frombuffer(value, np.uint8), buffers)]}
    if isinstance(value, np.ndarray) and value.dtype.kind in "biuf":
        return {"@": [value.dtype.str, value.shape, _place(np.ascontiguousarray(value), buffers)]}
    raise TypeError(f"a {type(value).__name__} can't be passed between processes")


def unpack(kind: Any, value: Any, payload: np.ndarray) -> Any:
    """What `pack` was given, of the annotated type `kind`: dataclasses and paths come back as such, lists as tuples.

    The dataclasses of a union are told apart by the names of their fields.
    """
    if isinstance(value, dict):
        if "@" in value:
            dtype, shape, offset = value["@"]
            if dtype == "bytes":
                return payload[offset : offset + shape[0]].tobytes()
            size = math.prod(shape) * np.dtype(dtype).itemsize
            return payload[offset : offset + size].view(dtype).reshape(shape)
        options = (option for option in (kind, *typing.get_args(kind)) if is_dataclass(option))
        cls = next(option for option in options if {field.name for field in fields(option)} == value.keys())
        hints = _hints(cls)
        return cls(**{name: unpack(hints[name], inner, payload) for name, inner in value.items()})
    if isinstance(value, list):
        return tuple(unpack(None, inner, payload) for inner in value)
    if isinstance(value, str) and Path in (kind, *typing.get_args(kind)):
        return Path(value)
    return value


def serve(module: str, name: str, memory: int, timeout: float, parent: int, files: list[int]) -> NoReturn:
    """Answer the requests on standard input until it ends, or until the parent is gone.

    An item that takes too long ends the process, whatever code it is in: the timers' signals are left to the kernel.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent decides
    for number in TOO_LONG:  # whatever the parent does with them is inherited
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, TOO_LONG)
    replies = os.dup(1)
    os.dup2(2, 1)  # nowhere: decoders print to both
    try:
        function = getattr(importlib.import_module(module), name)
        hints = typing.get_type_hints(function)
        takes = next(kind for argument, kind in hints.items() if argument != "return")
        _limit(memory)
    except Exception as error:
        _send(replies, {"failed": f"{type(error).__name__}: {error}"})
        os._exit(1)
    _send(replies, {"ready": True})
    for line in _lines(parent):
        request = json.loads(line)
        _set_timers(timeout)
        reply = _answer(function, takes, request["item"], files[request["slot"]], memory)
        _set_timers(0.0)
        _send(replies, reply)
        if "last" in reply:
            break
    os._exit(0)


def _set_timers(seconds: float) -> None:
    signal.setitimer(signal.ITIMER_PROF, seconds)  # SIGPROF after so much processor time, SIGALRM by the clock
    signal.setitimer(signal.ITIMER_REAL, CLOCK * seconds)


def _answer(function: Callable[[Any], Any], takes: Any, item: Any, file: int, memory: int) -> dict[str, Any]:
    try:
        buffers: list[tuple[int, np.ndarray]] = []
        value = pack(function(unpack(takes, item, np.empty(0, np.uint8))), buffers)
        for offset, array in buffers:
            _write(file, array, offset)
        return {"value": value, "bytes": max((offset + array.nbytes for offset, array in buffers), default=0)}
    except UserError as error:
        return {"error": str(error)}
    except MemoryError:
        return {"reason": f"needs more than {memory >> 20:,} MiB of memory", "last": True}
    except Exception as error:  # one item's bad luck must not end the batch
        return {"reason": f"can't be read ({_where(error)})"}


def _limit(memory: int) -> None:
    """`memory` bytes more than now, no larger file, and no core dump: it would hold a patient's image."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (memory, memory))
    pages = Path("/proc/self/statm")
    if pages.exists():  # elsewhere than on Linux nobody heeds the limit
        now = int(pages.read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (now + memory, now + memory))


def _lines(parent: int) -> Iterator[bytes]:
    waiting = b""
    while True:
        line, newline, rest = waiting.partition(b"\n")
        if newline:
            waiting = rest
            yield line
            continue
        # A killed parent ends the input, unless another child of it holds the pipe open.
        while not select.select([0], [], [], PARENT_CHECK_SECONDS)[0]:
            if os.getppid() != parent:
                return
        chunk = os.read(0, 1 << 16)
        if not chunk:
            return
        waiting += chunk


def _send(replies: int, reply: dict[str, Any]) -> None:
    data = memoryview(json.dumps(reply).encode() + b"\n")
    try:
        while data:
            data = data[os.write(replies, data) :]
    except BrokenPipeError:
        os._exit(0)


def _write(file: int, array: np.ndarray, offset: int) -> None:
    data = memoryview(array.reshape(-1).view(np.uint8))
    while data:
        count = os.pwrite(file, data, offset)
        data, offset = data[count:], offset + count


def _place(array: np.ndarray, buffers: list[tuple[int, np.ndarray]]) -> int:
    if not array.nbytes:
        return 0
    end = buffers[-1][0] + buffers[-1][1].nbytes if buffers else 0
    offset = -(-end // ALIGNMENT) * ALIGNMENT
    buffers.append((offset, array))
    return offset


def _where(error: Exception) -> str:
    """What was raised where; not its message, which may quote a patient's data."""
    *_, last = traceback.extract_tb(error.__traceback__)
    return f"{type(error).__name__} in line {last.lineno} of {Path(last.filename).name}"


@lru_cache
def _hints(cls: type) -> dict[str, Any]:
    return typing.get_type_hints(cls)
