"""Chests with the fine detail that tells one exposure from another, copies of them, and datasets of both."""

import io
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from conftest import drawn_chest
from PIL import Image

from synthcxr.data.dataset import Dataset
from synthcxr.data.record import Record
from synthcxr.data.writer import DatasetWriter

BARE = {"source": "drawn", "licence": "CC0"}


def chest(patient: int = 0, exposure: int = 0, size: int = 192) -> np.ndarray:
    """uint8 (size, size): the chest of a patient; ribs and vessels lie elsewhere at each exposure."""
    grain = np.random.default_rng((patient, exposure)).normal(0, 12, (96, 96)).astype(np.float32)
    detail = np.asarray(Image.fromarray(grain).resize((size, size), Image.Resampling.BICUBIC))
    return np.clip(drawn_chest(size, seed=patient) + detail, 0, 255).astype(np.uint8)


def moved(pixels: np.ndarray) -> np.ndarray:
    """By 4% of the side to the lower right; black comes in."""
    step = round(0.04 * len(pixels))
    return np.pad(pixels, ((step, 0), (step, 0)))[: pixels.shape[0], : pixels.shape[1]]


def recontrasted(pixels: np.ndarray) -> np.ndarray:
    """Gamma 0.7, a third of the contrast less, brighter."""
    return (40 + 0.67 * 255 * (pixels / 255) ** 0.7).astype(np.uint8)


def jpeg70(pixels: np.ndarray) -> np.ndarray:
    """Through a JPEG of quality 70."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=70)
    return np.asarray(Image.open(file))


def halved(pixels: np.ndarray) -> np.ndarray:
    """At half the size."""
    return np.asarray(Image.fromarray(pixels).resize((pixels.shape[1] // 2, pixels.shape[0] // 2)))


def deepened(pixels: np.ndarray) -> np.ndarray:
    """In 16 bits."""
    return pixels.astype(np.uint16) * 257


ALTERED = {"moved": moved, "recontrasted": recontrasted, "jpeg70": jpeg70, "halved": halved, "deepened": deepened}


def write(path: Path, images: Iterable[tuple[np.ndarray, dict[str, Any]]], origin: str = "real") -> Dataset:
    """A DATASET of images and what differs from a bare record; each is its own patient's unless it's said whose."""
    with DatasetWriter(path, origin=origin) as writer:
        for number, (pixels, fields) in enumerate(images):
            fields = {"id": f"i{number}", "patient": f"p{number}", "study": f"s{number}", "split": "train", **fields}
            writer.add(pixels, **BARE, **fields)
    return writer.dataset


def record(number: int, **fields: Any) -> Record:
    """A record of an image that there isn't."""
    image = {"shard": "00000.tar", "offset": 0, "size": 1, "sha256": "", "width": 8, "height": 8, "bits": 8}
    who = {"id": f"i{number}", "patient": f"p{number}", "study": "s", "split": "train", "origin": "real"}
    return Record(**{**image, "native_width": 8, "native_height": 8, **who, **BARE, **fields})
