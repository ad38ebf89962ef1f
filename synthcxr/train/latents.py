"""Images as a base's autoencoder tells them: mean and log-variance, cached, or made in each step."""

from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from torch import nn

from synthcxr.data.corpus import Corpus
from synthcxr.images import to_float
from synthcxr.model.hashes import module_hash
from synthcxr.model.latents import posterior, scaled
from synthcxr.runs import derive_seed
from synthcxr.train.augment import augmented
from synthcxr.train.batches import step_rng
from synthcxr.train.cache import Rows, cached_rows

CHUNK = 8  # images encoded at once


@torch.no_grad()
def moments(vae: nn.Module, pixels_bhw: np.ndarray, draws_b5: np.ndarray | None = None) -> torch.Tensor:
    """Mean and log-variance of the latents, (b, 2 * channels, h, w) in float32 on the autoencoder's device.

    Args:
        pixels_bhw: uint8; repeated over the autoencoder's channels.
        draws_b5: uniform in [0, 1), for augmentation (see augment.py); None: the images as they are.
    """
    images = torch.from_numpy(to_float(np.asarray(pixels_bhw))).unsqueeze(1)
    if draws_b5 is not None:
        images = augmented(images, torch.from_numpy(draws_b5).float())
    return torch.cat(posterior(vae, images), dim=1).float()


def sampled(moments_bchw: torch.Tensor, draws_bchw: torch.Tensor, vae: nn.Module) -> torch.Tensor:
    """Latents as the denoiser sees them, scaled; `draws` is standard normal, (b, channels, h, w)."""
    mean, logvar = moments_bchw.chunk(2, dim=1)
    return scaled(mean + (0.5 * logvar).exp() * draws_bchw, vae)


def draws_of(seed: int, record: str, variant: int) -> np.ndarray:
    """What augments an image in one of its variants, (5,)."""
    return step_rng(seed, f"augment/{record}", variant).random(5)


def cached_latents(cache: Path, corpus: Corpus, variants: int, seed: int, vae: nn.Module, acc: Accelerator) -> Rows:
    """Row `i * variants + k` is image i, as it is for k = 0, else augmented: field `moments`, float16."""
    key = derive_seed(seed, f"{corpus.hash}/{variants}/{module_hash(vae)}")

    def make(rows: range) -> dict[str, np.ndarray]:
        told = []
        for start in range(rows.start, rows.stop, CHUNK):
            chunk = range(start, min(start + CHUNK, rows.stop))
            images = [row // variants for row in chunk]
            pixels = corpus.pixels[np.array(images)]
            ids = [corpus.records[i].id for i in images]
            plain = np.array([row % variants == 0 for row in chunk])
            draws = np.stack([draws_of(seed, name, row % variants) for name, row in zip(ids, chunk, strict=True)])
            if plain.any():
                told.append((chunk, plain, moments(vae, pixels[plain]).half().cpu().numpy()))
            if not plain.all():
                told.append((chunk, ~plain, moments(vae, pixels[~plain], draws[~plain]).half().cpu().numpy()))
        made = np.empty((len(rows), *told[0][2].shape[1:]), np.float16)
        for chunk, mask, values in told:
            made[np.array(chunk)[mask] - rows.start] = values
        return {"moments": made}

    return cached_rows(cache / f"latents-{key:016x}", len(corpus.records) * variants, make, acc, "latents")
