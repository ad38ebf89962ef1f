"""A drawn dataset of two findings, and the config of a tiny experiment on it."""

from pathlib import Path
from typing import Any

import numpy as np

from synthcxr.conditions import Condition
from synthcxr.data.writer import DatasetWriter
from synthcxr.downstream.config import DownstreamConfig

SIZE = 32
HEART, WATER = "Cardiomegaly", "Pleural Effusion"


def write(
    path: Path,
    origin: str,
    patients: int,
    seed: int,
    names: tuple[str, str] = (HEART, WATER),
    mislabelled: bool = False,
) -> Path:
    """Noise, with a bright square in the middle for the first finding and one at the bottom for the second.

    Mislabelled, each is said to be there where it isn't, and the other way round.
    """
    rng = np.random.default_rng(seed)
    said = {"model": "f" * 64} if origin == "synthetic" else {}
    with DatasetWriter(path, origin=origin) as writer:
        for number in range(patients):
            split = "train" if origin == "synthetic" else ("train", "validate", "test", "test")[number % 4]
            there = {name: rng.random() < 0.5 for name in names}
            pixels = rng.normal(100, 20, (SIZE, SIZE))
            pixels[12:20, 12:20] += 60 * there[names[0]]
            pixels[26:32, 4:28] += 60 * there[names[1]]
            findings = [name for name, present in there.items() if present != mislabelled] or ["No Finding"]
            condition = Condition(
                findings=findings, sex=("female", "male")[int(rng.integers(2))], age=50,
                view=("PA", "AP")[int(rng.integers(2))],
            )  # fmt: skip
            writer.add(
                np.clip(pixels, 0, 255).astype(np.uint8), id=f"{origin}-{number:04d}", patient=f"{origin}-{number:04d}",
                study="s", split=split, source="drawn", licence="CC0", condition=condition, **said,
                **({"seed": number, "prompt": "drawn"} if origin == "synthetic" else {}),
            )  # fmt: skip
    return path


def config_for(drawn: Path, output: Path, **fields: Any) -> DownstreamConfig:
    plain = {
        "real": [drawn / "real"], "synthetic": {"drawn": drawn / "synthetic"}, "output": output,
        "cache": drawn / "cache", "size": SIZE, "fractions": [0.2, 1.0], "seeds": 2, "least": 20, "replicates": 100,
        "resnet": {"channels": [8, 16], "depths": [1, 1]}, "engine": {"workers": 1},
        "training": {"steps": 6, "batch_size": 8, "warmup": 1, "checks": 2},
    }  # fmt: skip
    return DownstreamConfig.model_validate(plain | fields)


def contents(folder: Path) -> dict[str, bytes]:
    """All that an experiment leaves but the log and the config, which name the output and the time."""
    files = [*(folder / "cells").iterdir(), *(folder / name for name in ("result.json", "report.html", "test.csv"))]
    return {file.name: file.read_bytes() for file in files}
