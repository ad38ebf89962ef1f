"""Extractors of features, and features of a DATASET's images, computed once and kept by content and extractor."""

import json
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn.functional import interpolate
from tqdm import tqdm

from synthcxr.data.curate.decide import Extractor
from synthcxr.data.dataset import Dataset
from synthcxr.data.record import Record
from synthcxr.errors import ModelError, UserError, shown
from synthcxr.evaluation.appearance import appearance_features
from synthcxr.evaluation.pixels import pixel_features
from synthcxr.files import atomic_path, hash_files
from synthcxr.images import from_float, to_float, to_square
from synthcxr.model.classifier import FINDINGS, Classifier, Readings
from synthcxr.model.folder import UNLOADABLE, resolve
from synthcxr.model.hashes import module_hash

BATCH = 32
XRV = "xrv:"  # then the name of torchxrayvision's weights
# Perez-Garcia et al. 2025. The commit is the one that published code names, over and over; it was never fetched here,
# so a result is bound to the hash of the files that were read, which stands in it.
RAD_DINO = "microsoft/rad-dino@110cbc18d5133582e320b43d53bf5c44e410c936"
_JUDGED = len(FINDINGS) + 3  # numbers of a reading before its features


def open_extractor(name: str) -> Extractor:
    """An extractor by its name.

    Args:
        name: "pixels" (64 x 64); "xrv:WEIGHTS" of torchxrayvision; a folder or pinned hub id ("owner/name@revision") of
            a transformers vision model; "rad-dino" is short for RAD_DINO, "rad-dino@revision" for it at another one.
    Raises:
        ModelError: no such model, or one that can't be loaded.
        UserError: torchxrayvision isn't installed.
    """
    if name == "pixels":
        return Extractor("pixels 64", lambda images: pixel_features(images).reshape(-1, 64 * 64))
    if name.startswith(XRV):
        return _torchxrayvision(name.removeprefix(XRV))
    short, at, revision = name.partition("@")
    if short == "rad-dino":
        name = f"{RAD_DINO.partition('@')[0]}@{revision}" if at else RAD_DINO
    return _transformers(name)


def judge(classifier: Classifier) -> Extractor:
    """A classifier's readings as rows, so that they are kept like features; `readings` takes them apart again."""

    def read(images: Iterable[np.ndarray]) -> np.ndarray:
        told = classifier.read(images)
        return np.column_stack([told.findings, told.male, told.ap, told.age, told.features])

    return Extractor(f"classifier {classifier.hash}", read)


def readings(rows: np.ndarray) -> Readings:
    """What `judge` read, (n, 17 + d)."""
    findings, male, ap, age, features = np.split(rows, [len(FINDINGS), *range(_JUDGED - 2, _JUDGED + 1)], axis=1)
    return Readings(findings, male[:, 0], ap[:, 0], age[:, 0], features)


def appearance_extractor() -> Extractor:
    """Sharpness, spectrum and grays; see `appearance`."""
    return Extractor("appearance 1", appearance_features)


def squares(dataset: Dataset, records: Sequence[Record], size: int) -> Iterator[np.ndarray]:
    """The centre square of each image, uint8, shrunk once and antialiased to at most `size` pixels; never enlarged.

    So real images lose the detail that generated ones can't have, and all reach an extractor in one form.
    """
    for record in tqdm(records, dataset.path.name, file=sys.stderr, unit="image", disable=None, leave=False):
        yield square(dataset, record, size)


def square(dataset: Dataset, record: Record, size: int) -> np.ndarray:
    """One image of `squares`."""
    pixels = to_float(dataset.read(record))
    return from_float(to_square(pixels, min(size, *pixels.shape)))


def features_of(
    extractor: Extractor, dataset: Dataset, records: Sequence[Record], size: int, cache: Path
) -> np.ndarray:
    """float32 (n, d): features of images in the order of `records`, from the cache where they were computed before.

    The cache's files are named by a hash of the extractor (which names its own weights), the size and the images'
    sha256: they hold for any dataset with the same images, and can't outlive a change of either. They appear whole.
    """
    told = json.dumps([extractor.name, size, [record.sha256 for record in records]])
    path = cache / f"{sha256(told.encode()).hexdigest()}.npy"
    if path.exists():
        return np.load(path, allow_pickle=False)
    rows = np.asarray(extractor.read(squares(dataset, records, size)), dtype=np.float32)
    if not np.isfinite(rows).all():
        raise ModelError(
            f"extractor {extractor.name.split()[0]} gives numbers that aren't finite; its weights are broken"
        )
    with atomic_path(path) as temporary, open(temporary, "wb") as file:
        np.save(file, rows, allow_pickle=False)
    return rows


def _transformers(source: str) -> Extractor:
    """A vision model of transformers: the whole square at the size of its own preprocessing, its pooled output."""
    from transformers import AutoModel

    folder = resolve(source)
    try:
        network = AutoModel.from_pretrained(folder, dtype=torch.float32, use_safetensors=True, local_files_only=True)
    except UNLOADABLE as error:
        reason = " ".join(str(error).split())[:200]
        raise ModelError(f"{shown(folder)} can't be loaded as a vision model ({reason}); give another") from error
    size, mean, deviation = _preprocessing(folder)
    channels = getattr(network.config, "num_channels", 3)
    network.eval()

    def forward(images_bchw: torch.Tensor) -> torch.Tensor:
        unit = (interpolate(images_bchw, (size, size), mode="bicubic", antialias=True).clamp(-1, 1) + 1) / 2
        inputs = (unit.expand(-1, channels, -1, -1) - mean[:channels, None, None]) / deviation[:channels, None, None]
        if hasattr(network, "get_image_features"):  # image-text models
            return pooled_output(network.get_image_features(pixel_values=inputs))
        return pooled_output(network(pixel_values=inputs))

    return Extractor(f"transformers {hash_files(folder.glob('*'))}", batched(forward))


def pooled_output(told: Any) -> torch.Tensor:
    """(b, d): the pooled output where a model has one, else the mean over its tokens or places."""
    if isinstance(told, torch.Tensor):
        return told
    pooled = getattr(told, "pooler_output", None)
    if pooled is None:
        hidden = told.last_hidden_state
        pooled = hidden.mean(1) if hidden.ndim == 3 else hidden
    return pooled.mean(dim=(2, 3)) if pooled.ndim == 4 else pooled


def _preprocessing(folder: Path) -> tuple[int, torch.Tensor, torch.Tensor]:
    """Size, mean and deviation of preprocessor_config.json; Image processors of transformers would need torchvision."""
    file = folder / "preprocessor_config.json"
    try:
        said = json.loads(file.read_text(encoding="utf-8"))
        size = said.get("crop_size") if said.get("do_center_crop") else None
        size = size or said["size"]
        size = size if isinstance(size, int) else size.get("height") or size["shortest_edge"]
        return int(size), torch.tensor(said["image_mean"]), torch.tensor(said["image_std"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelError(f"{shown(file)} must say size, image_mean and image_std; restore it") from error


def _torchxrayvision(weights: str) -> Extractor:
    """A DenseNet of torchxrayvision (Cohen et al. 2022): 224 x 224 in [-1024, 1024], its pooled features."""
    try:
        import torchxrayvision
    except (ImportError, RuntimeError) as error:  # a torchvision of another torch raises either
        raise UserError(
            f'extractor {XRV}{weights}: torchxrayvision can\'t be imported ({error}): pip install "synthcxr[xrv]"'
        ) from error
    network = torchxrayvision.models.DenseNet(weights=weights).eval()

    def forward(images_bchw: torch.Tensor) -> torch.Tensor:
        return network.features2(interpolate(images_bchw, (224, 224), mode="bilinear", antialias=True) * 1024)

    return Extractor(f"torchxrayvision {module_hash(network)}", batched(forward))


def batched(forward: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[Iterable[np.ndarray]], np.ndarray]:
    """From a network to a reader of images, pixels or floats in [-1, 1]: batches are of one size, and don't show."""

    @torch.inference_mode()
    def read(images: Iterable[np.ndarray]) -> np.ndarray:
        rows: list[np.ndarray] = []
        batch: list[torch.Tensor] = []

        def flush() -> None:
            if batch:
                rows.append(forward(torch.stack(batch)[:, None]).float().cpu().numpy())
                batch.clear()

        for image in images:
            tensor = torch.from_numpy(image if image.dtype == np.float32 else to_float(image))
            if len(batch) == BATCH or (batch and batch[0].shape != tensor.shape):
                flush()
            batch.append(tensor)
        flush()
        return np.concatenate(rows)

    return read
