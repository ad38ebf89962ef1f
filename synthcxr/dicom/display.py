"""From stored DICOM values to the gray levels that a viewer shows (PS3.4 N.2: modality LUT, VOI LUT, polarity).

The whole chain maps one stored value to one gray level, so it's worked out once for every value of the stored type
(at most 65,536) and then looked up.
"""

from collections.abc import Iterable, Iterator

import numpy as np
from pydicom.dataset import Dataset

from synthcxr.errors import ImageError

BLOCK = 1 << 20  # pixels looked up at a time: numpy turns indices into 8 bytes each

Range = tuple[float, float]


def displayed(stored: np.ndarray, ds: Dataset, bits_stored: int) -> np.ndarray:
    """Stored values (h, w) as displayed, 0 = black: uint8 where `bits_stored` <= 8, else uint16, over its full range.

    Modality LUT or rescale; then the file's first VOI LUT or, without one, its first window; then inversion where the
    photometric interpretation is MONOCHROME1. A file with neither LUT nor window is taken as is up to 8 bits, so that
    a secondary capture equals its PNG; with more bits its darkest and brightest pixels become black and white, as
    viewers do, since detectors seldom fill their range (padding, (0028,0120), doesn't count).

    Args:
        stored: int or uint of 8 or 16 bits.
        ds: holds the Image Pixel, Modality LUT and VOI LUT modules.
    Raises:
        ImageError: a table, rescale or window that the standard doesn't allow, or a picture of one gray level.
    """
    stored = stored.astype(stored.dtype.newbyteorder("="), copy=False)
    unsigned = np.dtype(f"u{stored.dtype.itemsize}")
    patterns = np.arange(np.iinfo(unsigned).max + 1, dtype=unsigned)
    raw = patterns.view(stored.dtype)
    half = 2.0 ** (bits_stored - 1)
    span = (-half, half - 1) if stored.dtype.kind == "i" else (0.0, 2 * half - 1)

    values, span = _modality(raw.astype(np.float64), span, ds)
    voi = _voi(values, span, ds)
    if voi is not None:
        values, span = voi
    elif bits_stored > 8:
        used = values[_used(stored.view(unsigned), raw, ds)]
        span = (used.min(), used.max())
    low, high = span
    if not np.isfinite((low, high)).all() or low == high:
        raise ImageError(f"its gray levels lie between {low:g} and {high:g}: a blank image; remove it")

    top = 255 if bits_stored <= 8 else 65535
    shares = np.clip((values - low) / (high - low), 0.0, 1.0)
    table = np.rint(shares * top).astype(np.uint8 if top == 255 else np.uint16)
    if ds.PhotometricInterpretation == "MONOCHROME1":
        table = top - table
    pixels = np.empty(stored.shape, table.dtype)
    for part in _parts(stored.shape):
        pixels[part] = table[stored.view(unsigned)[part]]
    if pixels.min() == pixels.max():
        raise ImageError("every pixel is displayed alike: a blank image, or a window that misses it; remove it")
    return pixels


def _modality(values: np.ndarray, span: Range, ds: Dataset) -> tuple[np.ndarray, Range]:
    """PS3.3 C.11.1: a table, or slope and intercept. A negative slope gives a span whose first end is the higher."""
    if ds.get("ModalityLUTSequence"):
        return _lookup(ds.ModalityLUTSequence[0], values, ds)
    slope, intercept = _first(ds, "RescaleSlope"), _first(ds, "RescaleIntercept")
    if slope is None or intercept is None:
        return values, span
    if slope == 0:
        raise ImageError("RescaleSlope = 0 must not be 0 (PS3.3 C.11.1.1.2)")
    return values * slope + intercept, (span[0] * slope + intercept, span[1] * slope + intercept)


def _voi(values: np.ndarray, span: Range, ds: Dataset) -> tuple[np.ndarray, Range] | None:
    """PS3.3 C.11.2: the first table, or the first window; None where the file has neither."""
    if ds.get("VOILUTSequence") and ds.VOILUTSequence[0].get("LUTData"):
        return _lookup(ds.VOILUTSequence[0], values, ds)
    center, width = _first(ds, "WindowCenter"), _first(ds, "WindowWidth")
    if center is None or width is None:
        return None
    function = str(ds.get("VOILUTFunction") or "LINEAR").strip().upper()
    low, high = span
    if function not in ("LINEAR", "LINEAR_EXACT", "SIGMOID"):
        raise ImageError(f"VOILUTFunction {function[:20]!r} must be LINEAR, LINEAR_EXACT or SIGMOID (PS3.3 C.11.2.1.3)")
    if width < 1 and function == "LINEAR" or width <= 0:
        raise ImageError(f"WindowWidth = {width:g} must be 1 or more (PS3.3 C.11.2.1.2)")
    if function == "SIGMOID":
        with np.errstate(over="ignore"):
            return (high - low) / (1 + np.exp(-4 * (values - center) / width)) + low, span
    if function == "LINEAR":
        center, width = center - 0.5, width - 1
    ramp = ((values - center) / width + 0.5) * (high - low) + low if width else values
    shown = np.where(values <= center - width / 2, low, np.where(values > center + width / 2, high, ramp))
    return shown, span


def _lookup(item: Dataset, values: np.ndarray, ds: Dataset) -> tuple[np.ndarray, Range]:
    """PS3.3 C.11.1.1.1 and C.11.2.1.1: values below the first mapped one take the first entry, those above the last."""
    count, first, bits = (int(number) for number in item.LUTDescriptor)
    count = count & 0xFFFF or 65536
    if first > values.max():  # a negative first value that was stored or read as unsigned
        first -= 65536
    data = item.LUTData
    if isinstance(data, bytes):
        order = "<" if ds.file_meta.TransferSyntaxUID.is_little_endian else ">"
        data = np.frombuffer(data, np.uint8 if len(data) in (count, count + count % 2) else f"{order}u2")
    entries = np.atleast_1d(np.asarray(data)).astype(np.float64)[:count]
    if len(entries) < count or not 8 <= bits <= 16:
        raise ImageError(f"a table of {len(entries)} entries says it has {count} of {bits} bits (PS3.3 C.11.2.1.1)")
    top = max(2.0**bits - 1, entries.max())
    return entries[np.clip(values - first, 0, count - 1).astype(np.intp)], (0.0, top)


def _used(patterns: np.ndarray, raw: np.ndarray, ds: Dataset) -> np.ndarray:
    """bool, one for each value of the stored type: whether a pixel that isn't padding has it (PS3.3 C.7.5.1.1.2)."""
    used = np.zeros(len(raw), bool)
    for part in _parts(patterns.shape):
        used[patterns[part]] = True
    padding = _first(ds, "PixelPaddingValue")
    if padding is None:
        return used
    limit = _first(ds, "PixelPaddingRangeLimit")
    low, high = sorted((padding, padding if limit is None else limit))
    content = used & ~((raw >= low) & (raw <= high))
    return content if content.any() else used


def _parts(shape: tuple[int, ...]) -> Iterator[slice]:
    rows = max(1, BLOCK // shape[1])
    return (slice(top, top + rows) for top in range(0, shape[0], rows))


def _first(ds: Dataset, keyword: str) -> float | None:
    """The first of a value's numbers; None where there's none."""
    value = ds.get(keyword)
    if isinstance(value, Iterable) and not isinstance(value, str | bytes):
        value = next(iter(value), None)
    if value is None or value == "":
        return None
    number = float(value)
    if not np.isfinite(number):
        raise ImageError(f"{keyword} must be a finite number")
    return number
