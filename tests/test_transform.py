"""The autoencoder's networks: what they begin as, what they see, how their stage chooses what it shows them."""

import numpy as np
import pytest
import torch

from synthcxr.model.autoencoder import ChestAutoencoder, start_from_pca
from synthcxr.model.embedded import AutoencoderShape, build_autoencoder
from synthcxr.model.transform import analysis, synthesis
from synthcxr.train.autoencoder import AutoencoderModule, missed_crops, missed_shares


def pictures(count: int = 16, size: int = 64) -> torch.Tensor:
    """Smooth ramps with a bright bar somewhere, which few numbers of a linear map can't tell."""
    rng = torch.Generator().manual_seed(0)
    images = torch.randn(count, 1, 4, 4, generator=rng)
    images = torch.nn.functional.interpolate(images, size=(size, size), mode="bicubic").clamp(-2, 2) / 4
    for image, (y, x) in zip(images, torch.randint(0, size - 12, (count, 2), generator=rng).tolist(), strict=True):
        image[0, y : y + 3, x : x + 12] = 1
    return images


def autoencoder(channels: int = 4, size: int = 64) -> ChestAutoencoder:
    torch.manual_seed(0)
    shape = AutoencoderShape(latent_channels=channels, channels=(16, 16, 16), layers=1, detail_channels=(8, 8, 8))
    made = build_autoencoder(shape, size)
    start_from_pca(made, pictures())
    return made


@pytest.mark.parametrize("channels", [(8,), (8, 12), (8, 12, 16)])
def test_transforms_are_mirror_images_and_begin_saying_nothing(channels):
    encoder, decoder = analysis(channels, 2, 5), synthesis(channels, 2, 5)
    stride = 2 ** (len(channels) + 1)
    told = encoder(torch.randn(2, 1, 64, 32))
    assert told.shape == (2, 5, 64 // stride, 32 // stride) and not told.any()
    shown = decoder(torch.randn_like(told))
    assert shown.shape == (2, 1, 64, 32) and not shown.any()
    kinds = torch.nn.Conv2d | torch.nn.ConvTranspose2d
    widths = [[(m.in_channels, m.out_channels) for m in part if isinstance(m, kinds)] for part in (encoder, decoder)]
    assert widths[0] == [pair[::-1] for pair in widths[1][::-1]]


def test_a_picture_is_told_alike_in_any_batch_and_beside_any_other():
    made = autoencoder().eval()
    for part in (made.encoder, made.decoder):
        for layer in part.modules():
            if isinstance(layer, torch.nn.Conv2d):
                torch.nn.init.normal_(layer.weight, std=0.1)
    images = pictures(5)
    with torch.no_grad():
        together = made.decode(made.encode(images).latent_dist.mean).sample
        alone = torch.cat([made.decode(made.encode(one[None]).latent_dist.mean).sample for one in images])
        assert (together - made.linear(images)).std() > 0.01
    assert torch.allclose(together, alone, atol=1e-5)


def test_loss_is_one_where_nothing_is_added_and_falls():
    made = autoencoder()
    module = AutoencoderModule(made)
    assert module(pictures()).detach().numpy() == pytest.approx(1, abs=0.05)
    made.linear_encoder.requires_grad_(False)
    made.linear_decoder.requires_grad_(False)
    optimizer = torch.optim.Adam([p for p in module.parameters() if p.requires_grad], 2e-3)
    for _ in range(80):
        optimizer.zero_grad()
        loss = module(pictures()).mean()
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.7
    told = made.encode(pictures()).latent_dist.mean
    assert not torch.allclose(told, autoencoder().encode(pictures()).latent_dist.mean, atol=1e-3)


def test_squares_show_what_linear_maps_miss():
    made, images = autoencoder(), pictures()
    pixels = ((images[:, 0] + 1) * 127.5).round().clamp(0, 255).byte().numpy()
    shares = missed_shares(made, pixels, np.arange(len(pixels)))
    assert shares.shape == (16, 4, 4) and shares.sum(axis=(1, 2)) == pytest.approx(1, abs=1e-5)
    bars = (pixels == 255).reshape(16, 4, 16, 4, 16).any(axis=(2, 4))
    assert (shares * bars).sum(axis=(1, 2)).mean() > 0.5
    squares = missed_crops(pixels, np.arange(16), shares, 32, np.random.default_rng(0))
    assert squares.shape == (16, 32, 32) and (squares == 255).any(axis=(1, 2)).mean() > 0.8
    whole = missed_crops(pixels, np.arange(16), shares, 128, np.random.default_rng(0))
    assert np.array_equal(whole, pixels)


def test_errors_over_squares_within_the_picture_are_those_over_it():
    """Squares are drawn by what was missed, and errors count by it: no block inside is favoured."""
    rng = np.random.default_rng(0)
    before, now = rng.gamma(1, size=(2, 1, 8, 8))  # energy missed in each block, before training and now
    before[0, [0, -1]] = before[0, :, [0, -1]] = now[0, [0, -1]] = now[0, :, [0, -1]] = 1e-9  # squares lie within
    pixels = np.arange(128 * 128).reshape(1, 128, 128)
    shares = np.repeat(before / before.sum(), 20_000, axis=0)
    squares = missed_crops(pixels, np.zeros(20_000, int), shares, 32, rng)
    y, x = np.divmod(squares[:, 0, 0], 128)
    spread = [np.kron(part[0], np.full((16, 16), 1 / 256)) for part in (before, now)]
    sums = [part.cumsum(0).cumsum(1) for part in spread]
    at = [np.pad(part, ((1, 0), (1, 0))) for part in sums]
    energy = [p[y + 32, x + 32] - p[y, x + 32] - p[y + 32, x] + p[y, x] for p in at]
    assert np.mean(energy[1] / energy[0]) == pytest.approx(now.sum() / before.sum(), rel=0.05)
