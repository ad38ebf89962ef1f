"""What engines know of work: jobs with a number, and what makes a worker that does them one by one."""

from collections.abc import Callable
from typing import Any, Protocol


class Job(Protocol):
    """A piece of work that can be sent to another process; done twice, it comes out the same."""

    @property
    def number(self) -> int: ...


Done = Any  # what a worker gives back of a job
Maker = Callable[[str], Callable[[Any], Done]]  # from a device to a worker; sent to other processes by its name
