"""The next batch made in a thread while this one is computed."""

from collections.abc import Callable, Hashable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, TypeVar

Place = TypeVar("Place", bound=Hashable)
Batch = TypeVar("Batch")


class Ahead(Generic[Place, Batch]):
    """Batches by their places, one made ahead.

    What a place holds is a function of the place alone, and which place comes next is known beforehand. So nothing has
    a position that could be lost: a run resumes at any step, on any number of processes, with what it would have had.
    """

    def __init__(self, make: Callable[[Place], Batch], following: Callable[[Place], Place]):
        self._make, self._following = make, following
        self._pool = ThreadPoolExecutor(1, "ahead")  # one: what makes batches need not be safe for several
        self._next: tuple[Place, Future[Batch]] | None = None

    def take(self, place: Place) -> Batch:
        """The batch of a place, ready if it follows the last one; what went wrong in making it is raised here."""
        waiting, self._next = self._next, None
        if waiting and waiting[0] == place:
            future = waiting[1]
        else:
            if waiting:
                waiting[1].cancel()
            future = self._pool.submit(self._make, place)
        batch = future.result()
        following = self._following(place)
        self._next = following, self._pool.submit(self._make, following)
        return batch
