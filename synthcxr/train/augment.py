"""What an image may be changed by in training without becoming a picture that no one would take."""

import torch
from torch.nn.functional import affine_grid, grid_sample


def augmented(images_bchw: torch.Tensor, uniform_b5: torch.Tensor) -> torch.Tensor:
    """Turned by up to 4 degrees, zoomed in by up to 10%, shifted inside what the zoom leaves, contrast changed by 10%.

    Never flipped: left and right are meaning. Nothing outside the image is shown, but for slivers from the turn.
    """
    draw = uniform_b5.mul(2).sub(1)
    angle = draw[:, 0] * torch.pi / 45
    zoom = 1 - 0.1 * uniform_b5[:, 1]
    shift = draw[:, 2:4] * (1 - zoom)[:, None]
    turn = torch.stack([angle.cos(), -angle.sin(), angle.sin(), angle.cos()], dim=1).view(-1, 2, 2)
    matrix = torch.cat([turn * zoom[:, None, None], shift[:, :, None]], dim=2)
    grid = affine_grid(matrix, list(images_bchw.shape), align_corners=False)
    moved = grid_sample(images_bchw, grid, mode="bicubic", padding_mode="border", align_corners=False)
    return ((moved + 1) * (1 + 0.1 * draw[:, 4]).view(-1, 1, 1, 1) - 1).clamp(-1, 1)
