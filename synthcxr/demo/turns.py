"""Whose turn it is to use the model: jobs wait in line, and each can be withdrawn, waiting or at work."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import gradio as gr

from synthcxr.errors import RunError

WAITING = 16  # jobs that may wait; the next one is told that the page is busy
LOOK = 0.5  # seconds after which a waiting job says again how many are before it


class Job:
    """One request for the model, from its place in line to its end.

    Attributes:
        session: of the browser's page that asked; None, and nobody stops it.
        tab: of that page.
    """

    def __init__(self, line: "Line", session: str | None, tab: str):
        self.session, self.tab = session, tab
        self._line, self._stop = line, threading.Event()

    def stop(self) -> None:
        self._stop.set()

    def stopped(self) -> bool:
        """Whether it was withdrawn; asked at each step of a drawing."""
        return self._stop.is_set()

    def turn(self) -> Iterator[int]:
        """How many jobs are before this one, told again and again until there are none.

        Raises:
            Stopped: it was withdrawn while it waited.
        """
        from synthcxr.generate import Stopped

        while before := self._line.before(self):
            yield before  # where the browser has gone, gradio closes the generator that asks here
        if self.stopped():
            raise Stopped


class Line:
    """Jobs in the order in which they came; the first one has the model."""

    def __init__(self, waiting: int = WAITING):
        self.waiting, self._changed = waiting, threading.Condition()
        self._jobs: list[Job] = []

    @contextmanager
    def job(self, session: str | None, tab: str) -> Iterator[Job]:
        """A place in line, given up on leaving.

        Raises:
            RunError: too many wait already.
        """
        job = Job(self, session, tab)
        with self._changed:
            if len(self._jobs) > self.waiting:
                raise RunError(f"busy: {self.waiting} requests are waiting already; try again in a minute")
            self._jobs.append(job)
        try:
            yield job
        finally:
            with self._changed:
                self._jobs.remove(job)
                self._changed.notify_all()

    def before(self, job: Job) -> int:
        """How many jobs are before this one, at the latest after LOOK; 0 at once if it was withdrawn."""
        with self._changed:
            self._changed.wait_for(lambda: job is self._jobs[0] or job.stopped(), timeout=LOOK)
            return 0 if job.stopped() else self._jobs.index(job)

    def stop(self, session: str | None, tab: str) -> None:
        """Withdraw what this tab of this page has waiting or at work; nobody else's."""
        with self._changed:
            for job in self._jobs:
                if session is not None and (job.session, job.tab) == (session, tab):
                    job.stop()
            self._changed.notify_all()

    def stopper(self, tab: str) -> Callable[[gr.Request], None]:
        """What the tab's button Stop calls."""

        def stop(request: gr.Request) -> None:
            self.stop(request.session_hash, tab)

        return stop
