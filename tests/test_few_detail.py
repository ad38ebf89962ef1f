"""Detail, drawn in many evaluations and in a few: what its stages learn from, and that they learn it."""

import numpy as np
import pytest
import torch

from synthcxr.errors import UserError
from synthcxr.model.autoencoder import ChestAutoencoder, edge_energy, start_from_pca
from synthcxr.model.embedded import AutoencoderShape, build_autoencoder
from synthcxr.train.config import AutoencoderConfig, FewDetailConfig
from synthcxr.train.detail import crops, set_gain
from synthcxr.train.few_detail import FewDetailModule, student_of


def images(count: int = 8) -> torch.Tensor:
    rng = torch.Generator().manual_seed(0)
    return torch.randn(count, 1, 32, 32, generator=rng).cumsum(-1).cumsum(-2).div(60).clamp(-1, 1)


def teacher(steps: int = 8) -> ChestAutoencoder:
    """An autoencoder that draws detail by an untrained network, of so small answers that its ways are smooth."""
    torch.manual_seed(0)
    autoencoder = build_autoencoder(
        AutoencoderShape(latent_channels=8, channels=(16, 16, 16), detail_channels=(16, 16, 16)), 32
    )
    start_from_pca(autoencoder, images())
    autoencoder.register_to_config(detail_steps=steps, detail_scale=0.1)
    autoencoder.detail.conv_out.weight.data.mul_(0.3)
    return autoencoder.requires_grad_(False).eval()


def noise(count: int = 8) -> torch.Tensor:
    return torch.randn(count, 1, 32, 32, generator=torch.Generator().manual_seed(1))


def test_the_only_step_of_one_is_the_teachers_own():
    module = FewDetailModule(student_of(teacher(), 1), teacher(), 1)
    assert module(images(), noise()).shape == (8,)
    assert module(images(), noise()).max() < 1e-8


def test_of_as_many_steps_those_are_the_teachers_own_that_do_not_look_back():
    errors = FewDetailModule(student_of(teacher(), 4), teacher(), 4)(images(), noise()).view(4, 8)
    assert errors[[0, 3]].max() < 1e-8 < 1e-6 < errors[1:3].amin()  # between, a solver of second order isn't DDIM


def test_what_it_learned_is_nearer_to_many_evaluations():
    student = student_of(teacher(), 2)
    module = FewDetailModule(student, teacher(), 8)
    latents = teacher().encode(images()).latent_dist.mean
    many, few = teacher(8).decode(latents).sample, teacher(2).decode(latents).sample
    optimizer = torch.optim.Adam(student.detail.parameters(), 2e-3)
    rng = torch.Generator().manual_seed(2)
    for _ in range(120):
        optimizer.zero_grad()
        module(images(), torch.randn(8, 1, 32, 32, generator=rng)).mean().backward()
        optimizer.step()
    with torch.no_grad():
        learned = student.eval().decode(latents).sample
    assert (learned - many).square().mean() < 0.5 * (few - many).square().mean()
    assert torch.allclose(student.encode(learned).latent_dist.mean, latents, atol=1e-4)


def test_who_draws_no_detail_teaches_none():
    with pytest.raises(UserError, match=r"few_detail\.steps needs a model of detail"):
        student_of(teacher(0), 4)
    for steps in (4, 6):
        with pytest.raises(ValueError, match="multiple of evaluations"):
            FewDetailConfig(teacher_steps=steps, evaluations=4)


def test_crops_reach_into_the_corners():
    pixels = np.arange(64 * 64).reshape(1, 64, 64)
    squares, drawn = crops(pixels, np.zeros(2000, int), 32, np.random.default_rng(0))
    assert squares.shape == (2000, 32, 32) and drawn.shape == (2000, 1, 32, 32)
    assert drawn.std() == pytest.approx(1, abs=0.01)
    seen = np.bincount(squares.ravel(), minlength=64 * 64).reshape(64, 64) / 2000
    for corner in (seen[0, 0], seen[0, -1], seen[-1, 0], seen[-1, -1]):
        assert corner == pytest.approx(1 / 9, abs=0.03)  # a third of the squares at either side
    assert seen[32, 32] == pytest.approx(4 / 9, abs=0.05)
    assert crops(pixels, np.zeros(3, int), 128, np.random.default_rng(0))[0].shape == (3, 64, 64)


def test_gain_gives_edges_their_share_of_the_real_energy():
    autoencoder, settings = teacher(), AutoencoderConfig(edges=0.8, sharpening=0.05)
    told = edge_energy(autoencoder.decode(autoencoder.encode(images()).latent_dist.mean).sample) / edge_energy(images())
    set_gain(autoencoder, images(), settings)
    config = autoencoder.config
    assert config.sharpening == 0.05 and config.detail_gain > 0 and abs(told.mean() - 0.8) > 0.05
    told = edge_energy(autoencoder.decode(autoencoder.encode(images()).latent_dist.mean).sample) / edge_energy(images())
    assert told.mean().item() == pytest.approx(0.8, abs=0.01)
    set_gain(autoencoder, images(), AutoencoderConfig(edges=0.01))
    assert autoencoder.config.detail_gain == 0  # coarse alone has more
