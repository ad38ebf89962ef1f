"""Pictures that aren't whole, by their pixels alone: blank, clipped, half missing, or noise.

The limits are the same for every model, since they are about what a radiograph is: they lie a little beyond the
most extreme of the 6,356 real frontal radiographs (NIH, Hannover; 256 px) of the embedded model's training and
validation patients, whose own values stand beside them.
"""

from dataclasses import dataclass

import numpy as np

from synthcxr.evaluation.pixels import pixel_features

CELLS = 16  # a side: the grid in which flat areas are counted
FLAT = 1.0  # grey levels; a cell with a smaller standard deviation shows nothing
LEAST_RANGE = 60.0  # the most extreme real one: 63
MOST_BLACK = 0.4  # 0.31
MOST_WHITE = 0.05  # 0.01
MOST_FLAT = 0.35  # 0.25
MOST_ROUGH = 0.45  # 0.38


@dataclass(frozen=True)
class Form:
    """What is measured of one picture.

    Attributes:
        range: grey levels between the 1st and the 99th percentile, 0 to 255.
        black, white: shares of pixels at 0 and at 255.
        flat: share of the cells of a 16 x 16 grid that show nothing.
        rough: mean step between neighbours at 64 x 64 pixels, in standard deviations; about 1.13 for white noise.
    """

    range: float
    black: float
    white: float
    flat: float
    rough: float

    @property
    def whole(self) -> bool:
        return (
            self.range >= LEAST_RANGE
            and self.black <= MOST_BLACK
            and self.white <= MOST_WHITE
            and self.flat <= MOST_FLAT
            and self.rough <= MOST_ROUGH
        )


def measure_form(pixels: np.ndarray) -> Form:
    """Measure a uint8 (h, w) picture of at least 16 x 16."""
    low, high = np.percentile(pixels, [1, 99])
    height, width = (side // CELLS for side in pixels.shape)
    grey = pixels.astype(np.float32)
    cells = grey[: CELLS * height, : CELLS * width].reshape(CELLS, height, CELLS, width)
    small = pixel_features([pixels])[0]
    rough = np.mean([np.abs(np.diff(small, axis=axis)).mean() for axis in (0, 1)])
    return Form(
        float(high - low), float((pixels == 0).mean()), float((pixels == 255).mean()),
        float((cells.std((1, 3)) < FLAT).mean()), float(rough),
    )  # fmt: skip
