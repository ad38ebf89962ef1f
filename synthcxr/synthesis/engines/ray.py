"""The Ray engine: actors of a cluster, each with a worker of its own, over files in a folder that all nodes share.

A job of a node that dies is done again by another; that it's done twice changes nothing, since its files are written
whole and come out the same.
"""

import logging
import os
import traceback
from collections.abc import Iterator
from typing import Any

import torch

from synthcxr.errors import RunError, UserError
from synthcxr.synthesis.config import EngineConfig
from synthcxr.synthesis.engines.local import quiet
from synthcxr.synthesis.engines.work import Done, Job, Maker

log = logging.getLogger(__name__)

DEATHS = 3  # of workers at one job, one after the other, after which the job is to blame
LOADING = -1  # in place of a job's number
PATIENCE_SECONDS = 60.0


class Actor:
    """A worker behind Ray. What goes wrong is returned, since Ray wraps what is raised."""

    def __init__(self, make: Maker, gpus: float) -> None:
        self._make, self._gpus, self._worker = make, gpus, None

    def open(self) -> BaseException | None:
        """Load the model."""
        quiet()
        device = "cuda:0" if self._gpus and torch.cuda.is_available() else "cpu"
        try:
            self._worker = self._make(device)
        except Exception as error:
            return _told(error)
        return None

    def do(self, job: Job) -> Done | BaseException:
        """Do one job."""
        try:
            return self._worker(job)
        except Exception as error:
            return _told(error)


def on_ray(engine: EngineConfig, threads: int, make: Maker, jobs: Iterator[Job], count: int) -> Iterator[Done]:
    """Do `count` jobs on the cluster at `engine.address` or RAY_ADDRESS, or on one that is started for it.

    Ray's own token authentication holds where it's on (RAY_AUTH_MODE=token); a cluster that is started here has it on,
    listens on this machine alone, and has no dashboard.

    Raises:
        RunError: no Ray, no cluster there, or a job at which one worker after the other dies.
        (whatever a worker raises.)
    """
    address = engine.address or os.environ.get("RAY_ADDRESS") or "local"
    if address == "local":
        os.environ.setdefault("RAY_AUTH_MODE", "token")  # read when Ray is imported
    try:
        import ray
    except ImportError:
        raise RunError(
            "engine.kind = ray: Ray isn't installed; pip install 'synthcxr[ray]', or engine.kind=local"
        ) from None
    ours = not ray.is_initialized()
    if ours:
        _connect(ray, address)
    try:
        yield from _Crew(ray, engine, threads, make, count).work(jobs)
    finally:
        if ours:
            ray.shutdown()


def _connect(ray: Any, address: str) -> None:
    options = {"include_dashboard": False} if address == "local" else {}
    try:
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR, **options)
    except (ConnectionError, ValueError, RuntimeError, ray.exceptions.RayError) as error:
        raise RunError(f"engine.address = {address}: no Ray cluster can be reached there ({error})") from None


class _Crew:
    """The actors that are alive; one gets a job only once it's there, so that none waits for a node that isn't."""

    def __init__(self, ray: Any, engine: EngineConfig, threads: int, make: Maker, count: int) -> None:
        self._ray = ray
        cpus, gpus = threads, engine.gpus
        self._class = ray.remote(num_cpus=cpus, num_gpus=gpus, max_restarts=0)(Actor)
        self._given = (make, gpus)
        there = ray.cluster_resources()
        fit = there.get("GPU", 0) // gpus if gpus else there.get("CPU", 1) // cpus
        self._workers = max(1, min(count, engine.workers or int(fit)))
        self._count = count
        self._tasks: dict[Any, tuple[Any, Job | None]] = {}  # the actor, and what it does; None: it loads
        self._idle: list[Any] = []
        self._again: list[Job] = []
        self._deaths: dict[int, int] = {}

    def work(self, jobs: Iterator[Job]) -> Iterator[Done]:
        """Hand out the jobs until all are done."""
        for _ in range(self._workers):
            self._hire()
        done = 0
        while done < self._count:
            ready, _ = self._ray.wait(list(self._tasks), num_returns=1, timeout=PATIENCE_SECONDS)
            if not ready:
                if not any(job for _, job in self._tasks.values()):
                    log.warning("no worker is ready yet: they load, or the cluster has no room; waiting")
                continue
            actor, job = self._tasks.pop(ready[0])
            try:
                said = self._ray.get(ready[0])
            except self._ray.exceptions.RayError as error:
                self._bury(job, error)
                continue
            if isinstance(said, BaseException):
                raise said
            self._deaths.pop(job.number if job else LOADING, None)
            self._give(actor, self._again.pop() if self._again else next(jobs, None))
            if said is not None:
                done += 1
                yield said

    def _hire(self) -> None:
        actor = self._class.remote(*self._given)
        self._tasks[actor.open.remote()] = (actor, None)

    def _give(self, actor: Any, job: Job | None) -> None:
        if job is None:
            self._idle.append(actor)
        else:
            self._tasks[actor.do.remote(job)] = (actor, job)

    def _bury(self, job: Job | None, error: Exception) -> None:
        """An actor died, with its node or alone: its job goes to another."""
        number = job.number if job else LOADING
        self._deaths[number] = self._deaths.get(number, 0) + 1
        if self._deaths[number] >= DEATHS:
            what, reason = f"at job {number}" if job else "before they began", " ".join(str(error).split())[:300]
            raise RunError(f"{DEATHS} workers died {what} ({reason}); the same command goes on")
        log.warning("a worker died; its job goes to another (%s)", type(error).__name__)
        if job and self._idle:
            self._give(self._idle.pop(), job)
            return
        if job:
            self._again.append(job)
        self._hire()


def _told(error: Exception) -> BaseException:
    if isinstance(error, UserError | OSError):
        return error
    return RuntimeError(f"in a worker:\n{''.join(traceback.format_exception(error))}")
