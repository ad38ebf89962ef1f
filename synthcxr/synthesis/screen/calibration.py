"""The limits of a screen as a MODEL folder carries them: screen/limits.json, index.safetensors, README.md."""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from synthcxr.config import Config
from synthcxr.errors import ModelError, shown
from synthcxr.files import atomic_path, hash_files, write_json, write_text
from synthcxr.model.folder import EMBEDDED, SCREEN, resolve
from synthcxr.synthesis.screen.condition import ConditionLimits
from synthcxr.synthesis.screen.distribution import Gaussian
from synthcxr.synthesis.screen.privacy import Index

LIMITS, ARRAYS = "limits.json", "index.safetensors"
CARD = """# What these files say of the training images

They hold what `synthcxr synthesize` checks pictures by: limits in limits.json, arrays in index.safetensors. No image.

- Of each training image, {size} bytes (`copies.codes`): signs of random projections of its main outlines at 64 x 64
  pixels, without name, label or order. Whoever holds a radiograph can tell with them whether it was trained on; an
  index that finds copies can't do without that. Who holds none can work out a soft outline of a chest, no detail.
- Sums over all training images: mean and covariance of the classifier's features, and of outlines.
- Of {patients} held-out patients, one distance each.

If membership in the training data is itself a secret, leave this folder out and switch the check off
(`screen.privacy=false`): copies then go unnoticed.
"""


class Limits(Config):
    """What limits.json says.

    `classifier` and `data_hash` are hashes of the classifier and the training images that it was measured with;
    `images` and `patients` count training images and held-out patients. A share `outliers` of real radiographs fails
    the check of distribution, and at most `alpha` that of privacy.
    """

    schema_version: int = 1
    classifier: str
    data_hash: str
    images: int
    patients: int
    outliers: float
    alpha: float
    distance: float
    condition: ConditionLimits

    def summary(self) -> str:
        """One line: what it rests on, and what's never judged."""
        told = {**self.condition.labels, "age": self.condition.age}
        unjudged = ", ".join(name for name, limit in told.items() if not limit.judged)
        return f"{self.images} training images, {self.patients} held-out patients; not judged: {unjudged or 'nothing'}"


@dataclass(frozen=True, eq=False)
class Calibration:
    """Limits, and the arrays they are limits on."""

    limits: Limits
    gaussian: Gaussian
    index: Index


def save_calibration(calibration: Calibration, model: Path) -> str:
    """Write it into a MODEL folder, in place of an older one; returns its hash."""
    folder, new = model / SCREEN, model / f"{SCREEN}.new"
    if new.exists():
        shutil.rmtree(new)
    gaussian, index = calibration.gaussian, calibration.index
    arrays = {
        "gaussian.mean": gaussian.mean, "gaussian.whitening": gaussian.whitening.astype(np.float16),
        "copies.mean": index.mean, "copies.projections": index.projections, "copies.codes": index.codes,
        "copies.held_out": index.held_out,
    }  # fmt: skip
    with atomic_path(new) as temporary:
        temporary.mkdir()
        write_json(temporary / LIMITS, calibration.limits)
        write_text(temporary / "README.md", CARD.format(size=index.codes.shape[1], patients=len(index.held_out)))
        save_file({name: np.ascontiguousarray(array) for name, array in arrays.items()}, temporary / ARRAYS)
    if folder.exists():
        shutil.rmtree(folder)
    new.rename(folder)
    return hash_files(folder.glob("*"))


def load_calibration(source: str | Path | None) -> tuple[Calibration, str]:
    """The calibration of a MODEL folder (None: the embedded one), and the hash of its files.

    Raises:
        ModelError: there is none, or it's damaged.
    """
    folder = resolve(EMBEDDED if source is None else source) / SCREEN
    if not (folder / LIMITS).is_file():
        raise ModelError(
            f"{shown(folder)} holds no calibration of the screen; run `synthcxr calibrate`, or switch off the checks "
            "distribution, condition and privacy"
        )
    try:
        limits = Limits.model_validate(json.loads((folder / LIMITS).read_text(encoding="utf-8")))
        arrays = load_file(folder / ARRAYS)
        gaussian = Gaussian(arrays["gaussian.mean"], arrays["gaussian.whitening"].astype(np.float32), limits.distance)
        copies = (arrays[f"copies.{name}"] for name in ("mean", "projections", "codes", "held_out"))
        index = Index(*copies, alpha=limits.alpha)
    except (OSError, ValueError, KeyError, ValidationError, SafetensorError) as error:
        reason = " ".join(str(error).split())[:200]
        raise ModelError(f"{shown(folder)} can't be read ({reason}); run `synthcxr calibrate` again") from error
    return Calibration(limits, gaussian, index), hash_files(folder.glob("*"))
