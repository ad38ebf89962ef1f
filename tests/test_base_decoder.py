"""What is measured of a decoder: known answers, and small structures that a whole picture's mean hides."""

import numpy as np
import pytest
import torch
from torch.nn.functional import avg_pool2d

from synthcxr.train.base_decoder import scores


@pytest.fixture
def images() -> torch.Tensor:
    """Smooth pictures of 128 px with one textured corner each, (3, 1, 128, 128)."""
    smooth = torch.linspace(-0.8, 0.2, 128).expand(3, 1, 128, 128).clone()
    smooth[:, :, :32, :32] += 0.3 * torch.randn(3, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    return smooth.clamp(-1, 1)


def test_an_equal_error_everywhere_gives_the_same_psnr_in_the_crops(images):
    told = scores(images, images + 0.02)  # of a peak of 2: 20 log10(2 / 0.02) = 40 dB
    assert told["psnr"] == pytest.approx(40, abs=0.05) and told["crop_psnr"] == pytest.approx(40, abs=0.2)


def test_lost_detail_shows_in_the_crops_more_than_in_the_whole(images):
    blurred = avg_pool2d(images, 5, 1, 2, count_include_pad=False)
    told = scores(images, blurred)
    assert (told["crop_psnr"] < told["psnr"] - 5).all() and (told["crop_ssim"] < told["ssim"] - 0.1).all()


def test_an_image_is_scored_alone(images):
    told, first = (scores(part, part * 0.9) for part in (images, images[:1]))
    for name, values in told.items():
        assert values.shape == (3,)
        np.testing.assert_allclose(values[:1], first[name], rtol=1e-5)
