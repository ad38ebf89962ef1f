"""Images to a model's latents, whatever its autoencoder tells: a distribution, or one answer."""

import torch
from torch import nn

NO_VARIANCE = -30.0  # log-variance of an autoencoder that tells no distribution


def posterior(vae: nn.Module, images_b1hw: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and log-variance of the latents, each (b, channels, h, w), not scaled yet.

    Args:
        images_b1hw: in [-1, 1]; repeated over the autoencoder's channels, on its device and in its type.
    """
    images = images_b1hw.expand(-1, getattr(vae.config, "in_channels", 1), -1, -1).to(next(vae.parameters()))
    told = vae.encode(images)
    if hasattr(told, "latent"):  # a deterministic autoencoder, such as Sana's
        return told.latent, torch.full_like(told.latent, NO_VARIANCE)
    return told.latent_dist.mean, told.latent_dist.logvar


def scaled(latents_bchw: torch.Tensor, vae: nn.Module) -> torch.Tensor:
    """Latents as the denoiser sees them."""
    return (latents_bchw - (vae.config.get("shift_factor") or 0.0)) * vae.config.scaling_factor
