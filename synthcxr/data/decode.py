"""From an image file to the PNG that a dataset keeps. This is what runs in the guarded workers of `prepare`."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from synthcxr.images import encode_png, from_float, read_marked, to_float
from synthcxr.vocabulary import Sex, View

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg")  # all else is taken for DICOM


@dataclass(frozen=True)
class Job:
    """A file, and the largest shorter side in pixels that is kept of it (None: any)."""

    path: Path
    max_size: int | None = None


@dataclass(frozen=True)
class Told:
    """What a DICOM header says of its image; of any other file, nothing. See sources.row.Header."""

    patient_id: str | None = None
    study_uid: str | None = None
    sop_uid: str | None = None
    age: int | None = None
    sex: Sex | None = None
    view: View | None = None


@dataclass(frozen=True)
class Decoded:
    """A PNG of `width` x `height` pixels of 8 or 16 bits; the native size is that of the file."""

    data: bytes
    width: int
    height: int
    bits: int
    native_width: int
    native_height: int
    told: Told


@dataclass(frozen=True)
class LeftOut:
    """A sound image that must not become part of a dataset of real ones, and why."""

    reason: str


def decode(job: Job) -> Decoded | LeftOut:
    """Read a PNG, a JPEG or a DICOM file, as it's displayed; but what carries a mark of synthetic origin is left out,
    and so is what says that it shows burned-in annotation, which may be a name.

    Raises:
        ImageError: one line that names the file.
    """
    told = Told()
    if job.path.suffix.lower() in IMAGE_SUFFIXES:
        pixels, mark = read_marked(job.path)
    else:
        from synthcxr.dicom.read import read_dicom  # half a second, which workers of other files needn't spend

        image = read_dicom(job.path)
        pixels, mark = image.pixels, image.synthetic
        if image.burned_in:
            return LeftOut("BurnedInAnnotation is YES: the pixels may show a name; clean them, then set it to NO")
        told = Told(image.patient_id, image.study_uid, image.sop_uid, image.age, image.sex, image.view)
    if mark:
        return LeftOut(f"it's marked as synthetic ({mark}), and can't become a real image of a dataset")
    height, width = pixels.shape
    kept = limit_size(pixels, job.max_size)
    bits = 8 * kept.dtype.itemsize
    return Decoded(encode_png(kept), kept.shape[1], kept.shape[0], bits, width, height, told)


def limit_size(pixels: np.ndarray, max_size: int | None) -> np.ndarray:
    """`pixels` reduced, antialiased, so that the shorter side is at most `max_size`; the same array where it is."""
    height, width = pixels.shape
    if max_size is None or min(height, width) <= max_size:
        return pixels
    scale = max_size / min(height, width)
    size = (max(max_size, round(width * scale)), max(max_size, round(height * scale)))
    reduced = Image.fromarray(to_float(pixels), mode="F").resize(size, Image.Resampling.LANCZOS)
    return from_float(np.asarray(reduced), bits=8 * pixels.dtype.itemsize)
