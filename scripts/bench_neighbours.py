"""What nearest neighbours cost on this machine: n queries against n references for the audit's three feature sets.

python scripts/bench_neighbours.py [N ...]     (by default 1000 3000 10000; each in a process of its own; and
by faiss where it is installed)
"""

import json
import resource
import subprocess
import sys
import time
from importlib.util import find_spec

import numpy as np
import torch

from synthcxr.evaluation.faiss_search import nearest_by_faiss
from synthcxr.evaluation.neighbours import nearest
from synthcxr.evaluation.pixels import SIZE, nearest_shifted

NEIGHBOURS = 51  # as the audit asks for
WIDTHS = {"classifier, 256 numbers": 256, "autoencoder, 8192 numbers": 8192}
GOAL_SECONDS, GOAL_GIB, GOAL_ROWS = 120, 2, 10_000


def chests(n: int, rng: np.random.Generator) -> np.ndarray:
    """(n, 64, 64): one outline that all share, and smooth fields of each one's own.

    The principal components of windows tell 92% of them (95% of real radiographs), and as many pairs are looked at in
    full as among real ones: some 50 a query beyond those that are looked at in any case.
    """
    frequency = np.hypot(*np.meshgrid(np.fft.rfftfreq(SIZE), np.fft.fftfreq(SIZE)))
    images = np.empty((n + 1, SIZE, SIZE), dtype=np.float32)
    for image in images:
        image[:] = np.fft.irfft2(np.fft.rfft2(rng.standard_normal((SIZE, SIZE))) / (frequency + 1 / SIZE) ** 2)
        image /= image.std()
    return images[:-1] + 1.2 * images[-1]


def measure(n: int) -> dict[str, float]:
    """Seconds of each feature set, and the peak memory of this process with all that it holds, in GiB."""
    rng = np.random.default_rng(0)
    seconds = {}
    for name, width in WIDTHS.items():
        queries, reference = (rng.standard_normal((n, width), dtype=np.float32) for _ in range(2))
        start = time.perf_counter()
        nearest(queries, reference, NEIGHBOURS)
        seconds[name] = time.perf_counter() - start
    del queries, reference
    images = chests(2 * n, rng)
    start = time.perf_counter()
    nearest_shifted(images[:n], images[n:], NEIGHBOURS)
    seconds["pixels over 81 shifts"] = time.perf_counter() - start
    seconds["all"] = sum(seconds.values())
    seconds["peak GiB"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    del images
    return seconds | (by_faiss(n, rng) if find_spec("faiss") else {})


def by_faiss(n: int, rng: np.random.Generator) -> dict[str, float]:
    """Seconds of the same searches by faiss, which pixels over shifts can't take."""
    seconds = {}
    for width in WIDTHS.values():
        queries, reference = (rng.standard_normal((n, width), dtype=np.float32) for _ in range(2))
        start = time.perf_counter()
        nearest_by_faiss(queries, reference, NEIGHBOURS)
        seconds[f"{width} numbers, by faiss"] = time.perf_counter() - start
    return seconds


def main() -> None:
    if sys.argv[1:2] == ["--measure"]:
        return print(json.dumps(measure(int(sys.argv[2]))))
    sizes = [int(word) for word in sys.argv[1:]] or [1000, 3000, 10_000]
    print(f"{torch.get_num_threads()} threads")
    before: dict[str, float] = {}
    for number, n in enumerate(sizes):
        command = [sys.executable, __file__, "--measure", str(n)]
        costs = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        pairs = f", {(n / sizes[number - 1]) ** 2:.1f} times the pairs" if number else ""
        print(f"{n:,} x {n:,}{pairs}")
        for name, value in costs.items():
            grown = f"  {value / before[name]:6.2f} times" if before else ""
            print(f"  {name:28} {value:9.2f} {'' if name == 'peak GiB' else 's':2}{grown}")
        before = costs
        if n == GOAL_ROWS:
            print(f"  goal: at most {GOAL_SECONDS} s and {GOAL_GIB} GiB on two cores")


if __name__ == "__main__":
    main()
