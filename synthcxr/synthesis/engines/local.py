"""The local engine: processes of this machine, each with a worker (and so a model) of its own."""

import contextlib
import multiprocessing
import os
import signal
import threading
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait

import torch

from synthcxr.errors import RunError, UserError
from synthcxr.synthesis.config import EngineConfig
from synthcxr.synthesis.engines.work import Done, Job, Maker

READY = "ready"


def local(engine: EngineConfig, threads: int, make: Maker, jobs: Iterator[Job], count: int) -> Iterator[Done]:
    """Do `count` jobs; one worker works in this very process.

    Raises:
        RunError: a worker died (says of what).
        (whatever a worker raises: mistakes of the user and errors of the disk as they are.)
    """
    devices = devices_of(engine)
    workers = min(count, engine.workers or default_workers(threads, devices))
    if workers <= 1:
        yield from map(make(devices[0]), jobs)
        return
    pool = [_start(make, devices[index % len(devices)]) for index in range(workers)]
    by_pipe = {child.pipe: child for child in pool}
    try:
        while by_pipe:
            for pipe in wait(list(by_pipe)):
                said = _heard(by_pipe[pipe])
                job = next(jobs, None)
                if job is None:
                    del by_pipe[pipe]
                else:
                    with contextlib.suppress(BrokenPipeError):  # its end is heard next
                        pipe.send(job)
                if said != READY:
                    yield said
    finally:
        for child in pool:
            child.process.kill()
            child.process.join()


def devices_of(engine: EngineConfig) -> tuple[str, ...]:
    """The devices that workers take in turn."""
    gpus = tuple(f"cuda:{index}" for index in range(torch.cuda.device_count()))
    return engine.devices or gpus or ("cpu",)


def default_workers(threads: int, devices: tuple[str, ...]) -> int:
    """One a GPU; on the CPU as many as there are processors for, at `threads` each."""
    if devices != ("cpu",):
        return len(devices)
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, usable // threads)


@dataclass(frozen=True)
class _Child:
    process: multiprocessing.process.BaseProcess
    pipe: Connection


def _start(make: Maker, device: str) -> _Child:
    # Spawned: a forked child can't use a GPU, nor rely on the locks of its parent's threads.
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_serve, args=(make, device, theirs), daemon=True)
    process.start()
    theirs.close()  # else the end of the child couldn't be seen
    return _Child(process, ours)


def _heard(child: _Child) -> object:
    """What a worker says; what it raised is raised here."""
    try:
        said = child.pipe.recv()
    except (EOFError, ConnectionError):
        child.process.join()
        code = child.process.exitcode
        cause = signal.Signals(-code).name if code < 0 else f"exit code {code}"
        raise RunError(
            f"a worker died ({cause}), as they do for want of memory; with fewer engine.workers or a smaller batch_size"
            " the same command goes on"
        ) from None
    if isinstance(said, BaseException):
        raise said
    return said


def _serve(make: Maker, device: str, pipe: Connection) -> None:
    """The whole life of a worker process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent, which gets it as well, ends its workers
    threading.Thread(target=_end_with_parent, daemon=True).start()
    quiet()
    try:
        worker = make(device)
        pipe.send(READY)
        while True:
            pipe.send(worker(pipe.recv()))
    except (EOFError, BrokenPipeError):
        return
    except (UserError, OSError) as error:
        pipe.send(error)
    except BaseException:
        pipe.send(RuntimeError(f"in a worker:\n{traceback.format_exc()}"))


def _end_with_parent() -> None:
    """A killed parent can't end its workers; none may go on writing beside the next run's."""
    multiprocessing.parent_process().join()
    os._exit(1)


def quiet() -> None:
    """Progress bars of loading a model are told once at most, by the process that the user started."""
    import diffusers.utils.logging
    import transformers.utils.logging

    for library in (diffusers.utils.logging, transformers.utils.logging):
        library.disable_progress_bar()
        library.set_verbosity_error()
