"""The networks of the embedded autoencoder: analysis and synthesis transforms without normalisation.

Small, at 1/4, 1/8 and 1/16 of the resolution: full-resolution convolutions are what two cores can't afford. Without
statistics over the picture, what is told at one place follows from what is near it, in a crop as in the whole.
"""

from collections.abc import Sequence

import torch
from torch import nn
from torch.nn.functional import silu

PATCH = 4  # pixels a position of the finest level covers, each way


class Residual(nn.Module):
    """Two convolutions beside the identity, which it begins as (He et al. 2016, "Identity mappings", figure 4e)."""

    def __init__(self, channels: int):
        super().__init__()
        self.first = nn.Conv2d(channels, channels, 3, padding=1)
        self.second = zeroed(nn.Conv2d(channels, channels, 3, padding=1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(b, channels, h, w), both ways."""
        return x + self.second(silu(self.first(silu(x))))


def analysis(channels: Sequence[int], layers: int, latent_channels: int) -> nn.Sequential:
    """(b, 1, h, w) to (b, latent_channels, h / 2^(n + 1), w / 2^(n + 1)) for n widths; says zero until trained."""
    parts = [nn.PixelUnshuffle(PATCH), nn.Conv2d(PATCH**2, channels[0], 3, padding=1)]
    for width, coarser in zip(channels, [*channels[1:], None], strict=True):
        parts += [Residual(width) for _ in range(layers)]
        if coarser:
            parts.append(nn.Conv2d(width, coarser, 4, stride=2, padding=1))
    return nn.Sequential(*parts, zeroed(nn.Conv2d(channels[-1], latent_channels, 3, padding=1)))


def synthesis(channels: Sequence[int], layers: int, latent_channels: int) -> nn.Sequential:
    """The way back, by a mirror image of `analysis`; the widths are given from fine to coarse, too."""
    parts = [nn.Conv2d(latent_channels, channels[-1], 3, padding=1)]
    for width, finer in zip(channels[::-1], [*channels[-2::-1], None], strict=True):
        parts += [Residual(width) for _ in range(layers)]
        if finer:
            parts.append(nn.ConvTranspose2d(width, finer, 4, stride=2, padding=1))
    return nn.Sequential(*parts, zeroed(nn.Conv2d(channels[0], PATCH**2, 3, padding=1)), nn.PixelShuffle(PATCH))


def zeroed(layer: nn.Conv2d) -> nn.Conv2d:
    """This layer with weights of zero."""
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer
