"""Images read from their shards as they are needed: random access by offset, one step ahead."""

from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np

from synthcxr.data.corpus import Corpus

READERS = 4


class LiveImages:
    """The pixels of a step's samples, read while the step before is computed.

    Which images a step wants is known beforehand, so nothing has a position that could be lost: a run resumes at any
    step, on any number of processes, with what it would have read.
    """

    def __init__(self, corpus: Corpus):
        self.corpus = corpus
        self._pool = ThreadPoolExecutor(READERS)
        self._ahead: dict[int, Future[np.ndarray]] = {}

    def fetch(self, indices: Sequence[int], following: Sequence[int]) -> np.ndarray:
        """uint8 (b, h, w) of these images; those that follow are read from now on."""
        wanted = [self._reading(int(index)) for index in indices]
        self._ahead |= {int(index): self._pool.submit(self._read, int(index)) for index in following}
        return np.stack([future.result() for future in wanted])

    def _reading(self, index: int) -> "Future[np.ndarray]":
        return self._ahead.pop(index, None) or self._pool.submit(self._read, index)

    def _read(self, index: int) -> np.ndarray:
        return self.corpus.pixels[index]
