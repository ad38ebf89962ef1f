"""How long a checkpoint of a retraining takes: until a process may be killed, until the disk has it, until it's read.

    python scripts/bench_checkpoint.py --gigabytes 2 --folder /path/on/the/disk

The state is that of a whole retraining (weights, average and two moments in float32), in tensors of Stable Diffusion
1.5's sizes; what SD 1.5's own state would take is scaled from it.
"""

import argparse
import shutil
import tempfile
import time
from pathlib import Path

import torch

import synthcxr.train.checkpoint as checkpoint

SD15 = 859.5e6 * 4 * 4  # bytes: its denoiser's parameters, four times in float32
SHAPES = [(1280, 1280, 3, 3), (1280, 640, 3, 3), (10240, 1280), (1280, 5120), (640, 640, 3, 3), (1280, 1280), (1280,)]


def state(size: float) -> dict[str, torch.Tensor]:
    """Random tensors of these many bytes together, in rotation of the shapes."""
    tensors: dict[str, torch.Tensor] = {}
    made, generator = 0, torch.Generator().manual_seed(0)
    while made < size:
        tensors[f"part/{len(tensors):05d}"] = torch.randn(SHAPES[len(tensors) % len(SHAPES)], generator=generator)
        made += tensors[f"part/{len(tensors) - 1:05d}"].nbytes
    return tensors


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gigabytes", type=float, default=2.0, help="of the state that is written (default 2)")
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()), help="on the disk to be measured")
    arguments = parser.parse_args()
    tensors = state(arguments.gigabytes * 1e9)
    size = sum(tensor.nbytes for tensor in tensors.values())
    folder = Path(tempfile.mkdtemp(prefix="checkpoints-", dir=arguments.folder))
    taken: dict[str, tuple[float, float]] = {}
    start, sync = (0.0, 0.0), checkpoint.sync

    def lap(what: str) -> None:
        taken[what] = (time.perf_counter() - start[0], time.process_time() - start[1])

    def timed(path: Path) -> None:  # called once the checkpoint has its name
        lap("saved (may be killed)")
        sync(path)

    checkpoint.sync = timed
    try:
        start = (time.perf_counter(), time.process_time())
        checkpoint.save_checkpoint(folder, 1, tensors)
        lap("on the disk")
        start = (time.perf_counter(), time.process_time())
        kept = checkpoint.latest_checkpoint(folder)
        assert all(torch.equal(kept.tensors[name], tensor) for name, tensor in tensors.items())
        lap("found whole and read")
    finally:
        shutil.rmtree(folder)
    print(f"{size / 1e9:.2f} GB in {len(tensors)} tensors; the state of SD 1.5 has {SD15 / 1e9:.1f} GB")
    print("seconds                      wall  of SD 1.5   processor  of SD 1.5")
    for what, laps in taken.items():
        print(f"{what:22s}" + "".join(f"{lap:11.1f}{SD15 / size * lap:11.1f}" for lap in laps))


if __name__ == "__main__":
    main()
