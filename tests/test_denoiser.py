"""The denoiser: what it knows of latents in closed form, and the network beside it."""

import pytest
import torch
from torch import nn

from synthcxr.diffusion import alpha_sigma, noised, v_target
from synthcxr.model.denoiser import ChestUNet, Gaussian, build_scheduler
from synthcxr.model.embedded import DenoiserShape, build_unet
from synthcxr.model.lapped import cosines
from synthcxr.train.denoiser import channel_weights

CHANNELS, SIDE = 3, 4
SIZE = CHANNELS * SIDE**2
SHAPE = DenoiserShape(channels=(16, 32, 32), groups=8, head_width=16, text_width=64, tokens=24)


def stationary(rng: torch.Generator) -> tuple[Gaussian, torch.Tensor]:
    """A Gaussian without directions, and its covariance."""
    gaussian = Gaussian(CHANNELS, SIDE)
    gaussian.spectrum.copy_(0.1 + 3 * torch.rand(CHANNELS, SIDE, SIDE, generator=rng))
    matrix = cosines(SIDE)
    both = torch.block_diag(*[torch.kron(matrix, matrix)] * CHANNELS)
    return gaussian, both.T @ gaussian.spectrum.flatten().double().square().diag() @ both


def directed(rng: torch.Generator) -> tuple[Gaussian, torch.Tensor]:
    """A Gaussian with directions, alike in all others, and its covariance."""
    gaussian = Gaussian(CHANNELS, SIDE)
    kept = len(gaussian.loudness)
    basis = torch.linalg.qr(torch.randn(SIZE, SIZE, generator=rng, dtype=torch.float64)).Q
    gaussian.directions.copy_(basis[:, :kept].T)
    gaussian.loudness.copy_(torch.linspace(5, 1, kept))
    gaussian.spectrum.fill_(0.3)
    variances = torch.cat([gaussian.loudness.double().square(), torch.full((SIZE - kept,), 0.09)])
    return gaussian, basis @ variances.diag() @ basis.T


@pytest.mark.parametrize("made", [stationary, directed])
@pytest.mark.parametrize("step", [0, 300, 999])
def test_v_of_a_gaussian_is_the_posterior_mean(made, step):
    rng = torch.Generator().manual_seed(0)
    gaussian, covariance = made(rng)
    gaussian.mean.copy_(torch.randn(CHANNELS, SIDE, SIDE, generator=rng))
    alpha, sigma = alpha_sigma(build_scheduler().alphas_cumprod, torch.tensor([step]))
    seen = torch.randn(5, CHANNELS, SIDE, SIDE, generator=rng)
    a, s, mean = alpha.double(), sigma.double(), gaussian.mean.flatten().double()
    total = (a**2 * covariance).view(SIZE, SIZE) + s.item() ** 2 * torch.eye(SIZE)
    gain = a.item() * covariance @ torch.linalg.inv(total)
    clean = mean + (seen.flatten(1).double() - a.item() * mean) @ gain.T
    expected = (a.item() * seen.flatten(1).double() - clean) / s.item()
    told = gaussian.v(seen, alpha, sigma)
    assert torch.allclose(told.flatten(1).double(), expected, atol=2e-3)


@pytest.mark.parametrize("step", [0, 300, 999])
def test_channels_alone_leave_the_error_they_say(step):
    rng = torch.Generator().manual_seed(0)
    gaussian = Gaussian(CHANNELS, SIDE)
    deviations = torch.tensor([5.0, 1.0, 0.1]).view(-1, 1, 1)
    gaussian.mean.fill_(2)
    gaussian.spectrum.copy_(deviations.expand_as(gaussian.spectrum))
    gaussian.loudness.zero_()
    clean = 2 + deviations * torch.randn(4000, CHANNELS, SIDE, SIDE, generator=rng)
    noise = torch.randn(clean.shape, generator=rng)
    alpha, sigma = alpha_sigma(build_scheduler().alphas_cumprod, torch.tensor([step]))
    seen = noised(clean, noise, alpha, sigma)
    scaled, told, left = gaussian.alone(seen, alpha, sigma)
    assert torch.allclose(scaled.std((0, 2, 3)), torch.ones(CHANNELS), atol=0.02)
    error = (told - v_target(clean, noise, alpha, sigma)).square().mean((0, 2, 3)).sqrt()
    assert torch.allclose(error, left.flatten(), rtol=0.02)
    assert torch.allclose(told, gaussian.v(seen, alpha, sigma), atol=1e-3)  # here there is no more to know


def test_a_gaussian_is_fitted_to_its_own_draws():
    rng = torch.Generator().manual_seed(1)
    truth, covariance = directed(rng)
    truth.mean.fill_(2)
    root = torch.linalg.cholesky(covariance)
    drawn = (torch.randn(4000, SIZE, generator=rng, dtype=torch.float64) @ root.T).float() + 2
    fitted = Gaussian(CHANNELS, SIDE)
    fitted.fit(drawn.view(-1, CHANNELS, SIDE, SIDE))
    assert torch.allclose(fitted.directions @ fitted.directions.T, torch.eye(len(fitted.loudness)), atol=1e-4)
    assert torch.allclose(fitted.loudness, truth.loudness, rtol=0.1)
    assert torch.allclose(fitted.power, truth.power, rtol=0.1)
    assert torch.allclose(fitted.mean, truth.mean, atol=0.2)


def fresh() -> ChestUNet:
    torch.manual_seed(0)
    unet = build_unet(SHAPE, CHANNELS, 16 * SIDE).eval()
    latents = torch.randn(100, CHANNELS, SIDE, SIDE) * torch.tensor([5.0, 1.0, 0.1]).view(1, -1, 1, 1)
    unet.gaussian.fit(latents)
    return unet.requires_grad_(False)


def asked(unet: ChestUNet, seen: torch.Tensor, step: int | torch.Tensor) -> torch.Tensor:
    conditions = {"text_embeds": torch.zeros(len(seen), 64), "time_ids": torch.zeros(len(seen), 6)}
    return unet(seen, step, torch.zeros(len(seen), 24, 64), added_cond_kwargs=conditions).sample


def test_a_fresh_denoiser_is_the_gaussian():
    unet, seen = fresh(), torch.randn(4, CHANNELS, SIDE, SIDE)
    alpha, sigma = alpha_sigma(build_scheduler().alphas_cumprod, torch.tensor([700]))
    assert torch.allclose(asked(unet, seen, 700), unet.gaussian.v(seen, alpha, sigma), atol=1e-5)


def test_each_image_has_its_own_timestep():
    unet, seen = fresh(), torch.randn(3, CHANNELS, SIDE, SIDE)
    nn.init.normal_(unet.conv_out.weight, std=0.1)
    together = asked(unet, seen, torch.tensor([0, 400, 999]))
    alone = torch.cat([asked(unet, seen[i : i + 1], step) for i, step in enumerate((0, 400, 999))])
    assert torch.allclose(together, alone, atol=1e-4)


def test_half_precision_computes_the_gaussian_in_float32():
    unet, seen = fresh(), torch.randn(2, CHANNELS, SIDE, SIDE)
    with torch.autocast("cpu", torch.bfloat16):
        told = asked(unet, seen, 20)
    assert torch.allclose(told, asked(unet, seen, 20), atol=1e-6)


def test_another_resolution_is_refused():
    with pytest.raises(ValueError, match="this model knows 4 x 4 alone"):
        asked(fresh(), torch.randn(1, CHANNELS, 8, 8), 3)


def test_a_denoiser_keeps_what_it_knows_in_its_folder(tmp_path):
    unet = fresh()
    unet.save_pretrained(tmp_path)
    again = ChestUNet.from_pretrained(tmp_path)
    theirs = again.state_dict()
    assert all(torch.equal(tensor, theirs[name]) for name, tensor in unet.state_dict().items())
    assert again.config.addition_embed_type == "text_time" and again.config.time_cond_proj_dim is None


def test_channels_weigh_as_balance_says():
    schedule, power = build_scheduler().alphas_cumprod, torch.tensor([30.0, 1.0, 0.01])
    assert torch.equal(channel_weights(power, schedule, 0.0), torch.ones(3))
    alpha, sigma = alpha_sigma(schedule, torch.arange(len(schedule)))
    gaussian = Gaussian(3, SIDE)
    gaussian.spectrum.copy_(power.sqrt().view(3, 1, 1).expand(3, SIDE, SIDE))
    gaussian.loudness.zero_()
    _, _, deviation = gaussian.alone(torch.zeros(1, 3, SIDE, SIDE), alpha, sigma)
    error = deviation.square().mean(dim=0).flatten()
    weights = channel_weights(power, schedule, 1.0)
    assert weights.mean().item() == pytest.approx(1)
    assert torch.allclose(weights * error, (weights * error)[:1].expand(3), rtol=1e-4)
    half = channel_weights(power, schedule, 0.5)
    assert torch.allclose(half / half[0], (weights / weights[0]).sqrt())
