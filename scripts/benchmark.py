"""What the embedded model costs on this machine: parameters, GFLOP, seconds; each figure beside its goal.

python scripts/benchmark.py [MODEL]
"""

import subprocess
import sys
import time
from collections.abc import Callable

import torch
from torch.utils.flop_counter import FlopCounterMode

from synthcxr.conditions import Condition
from synthcxr.generate import Generator, Request
from synthcxr.model.folder import load_model


def seconds(call: Callable[[], object], times: int = 3) -> float:
    """The shortest of a few runs."""
    taken = []
    for _ in range(times):
        start = time.perf_counter()
        call()
        taken.append(time.perf_counter() - start)
    return min(taken)


@torch.no_grad()
def gflop(call: Callable[[], object]) -> float:
    """Billions of floating point operations, a multiply-add counted as two."""
    with FlopCounterMode(display=False) as counter:
        call()
    return counter.get_total_flops() / 1e9


def main() -> None:
    model = load_model(*sys.argv[1:2])
    pipeline, size = model.pipeline, model.info.resolution
    parts = {name: part for name, part in pipeline.components.items() if isinstance(part, torch.nn.Module)}
    millions = {name: sum(p.numel() for p in part.parameters()) / 1e6 for name, part in parts.items()}
    side, channels = size // pipeline.vae_scale_factor, pipeline.unet.config.in_channels
    latents = torch.zeros(1, channels, side, side)
    width = pipeline.unet.config.cross_attention_dim
    conditions = {"text_embeds": torch.zeros(1, width), "time_ids": torch.zeros(1, 6)}
    network = gflop(lambda: pipeline.unet(latents, 1, torch.zeros(1, 8, width), added_cond_kwargs=conditions))
    decoder = gflop(lambda: pipeline.vae.decode(latents))
    generator = Generator(model, batch_size=8)
    requests = [Request(condition=Condition(age=60), seed=seed) for seed in range(8)]
    warm = 8 / seconds(lambda: list(generator(requests, progress=False)))
    command = [sys.executable, "-m", "synthcxr.cli"]
    help_seconds = seconds(lambda: subprocess.run([*command, "--help"], check=True, capture_output=True))

    rows = [
        ("parameters, millions", sum(millions.values()), "<=", 28.0),
        ("network, GFLOP an evaluation", network, "<=", 2.0),
        ("decoder, GFLOP an image", decoder, "<=", 8.0),
        ("--help, seconds", help_seconds, "<=", 0.5),
        ("warm, images a second (default settings)", warm, ">=", 1.0),
    ]
    print(
        f"{torch.get_num_threads()} threads; " + ", ".join(f"{name} {value:.2f} M" for name, value in millions.items())
    )
    for name, value, sign, goal in rows:
        print(f"{name:42} {value:8.2f}   goal {sign} {goal:g}   ratio {value / goal:.2f}")


if __name__ == "__main__":
    main()
