"""Pure maths of diffusion: signal-to-noise ratios, targets, loss weights, the noise of an image.

Notation: x_t = alpha_t x_0 + sigma_t eps with alpha^2 + sigma^2 = 1.
"""

from collections.abc import Sequence

import numpy as np
import torch

from synthcxr.runs import derive_seed

AlphaSigma = tuple[torch.Tensor, torch.Tensor]


def alpha_sigma(alphas_cumprod: torch.Tensor, t_b: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """alpha and sigma at integer timesteps, each (b, 1, 1, 1); alphas_cumprod is the schedule, (T,)."""
    squared = alphas_cumprod[t_b].view(-1, 1, 1, 1)
    return squared.sqrt(), (1 - squared).sqrt()


def ddim_step(now: AlphaSigma, then: AlphaSigma) -> tuple[torch.Tensor, torch.Tensor]:
    """DDIM's step as a turn (Salimans and Ho 2022, appendix D): x_t' = kept x_t + turned v.

    Args:
        now, then: alpha and sigma at t and t'.
    Returns:
        kept, turned: cosine and minus sine of the angle between the two, each of their shape.
    """
    (alpha, sigma), (alpha_then, sigma_then) = now, then
    return alpha_then * alpha + sigma_then * sigma, sigma_then * alpha - alpha_then * sigma


def noised(x_bchw: torch.Tensor, noise_bchw: torch.Tensor, alpha: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
    """x_t of clean latents."""
    return alpha * x_bchw + sigma * noise_bchw


def v_target(x_bchw: torch.Tensor, noise_bchw: torch.Tensor, alpha: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
    """v = alpha eps - sigma x_0 (Salimans and Ho 2022, appendix D); at zero terminal SNR it is -x_0."""
    return alpha * noise_bchw - sigma * x_bchw


def min_snr_weight(alpha: torch.Tensor, sigma: torch.Tensor, gamma: float) -> torch.Tensor:
    """Weight of the squared error of v: min(SNR, gamma) / (SNR + 1) (Hang et al. 2023, eq. 6, for v).

    It falls with SNR, to 0 at zero terminal SNR: high noise, where the layout of a picture is settled, counts little.
    """
    snr = (alpha / sigma).square()
    return snr.clamp(max=gamma) / (snr + 1)


def stratified(uniform_b: torch.Tensor) -> torch.Tensor:
    """Places in [0, 1), float64 (b,), one in each of b equal strata: less noise in the loss than b free draws.

    Args:
        uniform_b: (b,) in [0, 1).
    """
    return (torch.arange(len(uniform_b), dtype=torch.float64) + uniform_b.double()) / len(uniform_b)


def stratified_timesteps(uniform_b: torch.Tensor, steps: int) -> torch.Tensor:
    """Integer timesteps (b,) in [0, steps), as `stratified` places them."""
    return (stratified(uniform_b) * steps).long().clamp_max(steps - 1)


def image_noise(seeds: Sequence[int], shape: tuple[int, ...]) -> torch.Tensor:
    """Initial noise (b, *shape) in float32: each image's from its own CPU generator, whatever the batch.

    From NumPy's generator, which takes in all 63 bits of a seed: torch's on the CPU takes 32, of which two images in
    100,000 would share theirs.
    """
    generators = (np.random.default_rng(derive_seed(seed, "initial noise")) for seed in seeds)
    drawn = [generator.standard_normal(shape, np.float32) for generator in generators]
    return torch.from_numpy(np.stack(drawn))


def step_generators(seeds: Sequence[int]) -> list[torch.Generator]:
    """The CPU generators of the noise that a stochastic sampler adds on its way, one an image."""
    return [torch.Generator().manual_seed(derive_seed(seed, "step noise")) for seed in seeds]
