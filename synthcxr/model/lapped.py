"""Linear transforms of images in blocks: the lapped orthogonal transform, and principal components of blocks."""

import math
from functools import lru_cache

import torch
from torch.nn.functional import pixel_shuffle, pixel_unshuffle

BLOCK = 16  # pixels a latent position covers, each way


@lru_cache(maxsize=8)
@torch.inference_mode(False)  # what is kept must serve training too
def lapping(size: int) -> torch.Tensor:
    """The orthogonal filter across block seams that makes a block transform a lapped one, (size, size), float32.

    Eight pixels either side of each seam are mixed, their sums left alone and their differences turned (Tran, Liang
    and Tu 2003, "Lapped transform via time-domain pre- and post-filtering", eq. 9 and 13: the filter of Malvar's lapped
    orthogonal transform). Constants pass unchanged, and so do the eight pixels at the picture's edge.
    """
    half = BLOCK // 2
    even, odd = cosines(half), cosines(half, 0.5)
    flip = torch.eye(half, dtype=torch.float64).flip(0)
    turn = flip @ even.T @ odd @ flip
    eye = torch.eye(half, dtype=torch.float64)
    butterfly = torch.cat([torch.cat([eye, flip], 1), torch.cat([flip, -eye], 1)]) / math.sqrt(2)
    across = butterfly @ torch.block_diag(eye, turn) @ butterfly
    matrix = torch.eye(size, dtype=torch.float64)
    for seam in range(BLOCK, size, BLOCK):
        matrix[seam - half : seam + half, seam - half : seam + half] = across
    return matrix.float()


@lru_cache(maxsize=8)
@torch.inference_mode(False)
def cosines(size: int, shift: float = 0.0) -> torch.Tensor:
    """The orthonormal cosine transform of type II (shift 0) or IV (shift 1/2), (size, size), float64."""
    rows, columns = torch.arange(size, dtype=torch.float64)[:, None] + shift, torch.arange(size) + 0.5
    matrix = torch.cos(math.pi * rows * columns / size) * math.sqrt(2 / size)
    if not shift:
        matrix[0] /= math.sqrt(2)
    return matrix


def lap(images_bchw: torch.Tensor) -> torch.Tensor:
    """Images filtered across the seams of their blocks, both ways; `unlap` is the inverse."""
    down, across = (lapping(side).to(images_bchw) for side in images_bchw.shape[-2:])
    return down @ images_bchw @ across.T


def unlap(images_bchw: torch.Tensor) -> torch.Tensor:
    """The inverse of `lap`."""
    down, across = (lapping(side).to(images_bchw) for side in images_bchw.shape[-2:])
    return down.T @ images_bchw @ across


def block_pca(images_bchw: torch.Tensor, components: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Principal components of non-overlapping 16x16 blocks.

    Args:
        images_bchw: (b, 1, h, w).
        components: how many to keep, at most 256.
    Returns:
        (256,) mean block, (components, 256) orthonormal directions, (components,) standard deviations, falling.
    """
    blocks = pixel_unshuffle(images_bchw.double(), BLOCK).permute(0, 2, 3, 1).reshape(-1, BLOCK**2)
    mean = blocks.mean(0)
    variances, vectors = torch.linalg.eigh((blocks - mean).T @ (blocks - mean) / len(blocks))
    order = variances.argsort(descending=True)[:components]
    return mean.float(), vectors[:, order].T.float().contiguous(), variances[order].clamp_min(1e-12).sqrt().float()


def pca_reconstruction(
    images_bchw: torch.Tensor, fitted: tuple[torch.Tensor, torch.Tensor, torch.Tensor]
) -> torch.Tensor:
    """Images as the block PCA of `block_pca` tells them with its components."""
    mean, directions, _ = fitted
    blocks = pixel_unshuffle(images_bchw, BLOCK).movedim(1, -1) - mean
    told = blocks @ directions.T @ directions + mean
    return pixel_shuffle(told.movedim(-1, 1), BLOCK)
