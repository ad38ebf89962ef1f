"""The only pixel convention: files and bytes <-> arrays <-> [-1, 1], and the marks of synthetic origin.

In memory a radiograph is (h, w), one channel: uint8 or uint16 as stored, or float32 in [-1, 1], where -1 is stored 0
(black) and 1 the largest stored value (255 or 65535). Nothing else in the package scales pixels.
"""

import io
import json
import math
import re
import struct
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont, ImageOps, PngImagePlugin

from synthcxr.errors import ImageError, shown
from synthcxr.files import write_bytes

# 80 million is twice the largest detector on the market; it also lies under Pillow's own warning threshold.
MAX_PIXELS = 80_000_000
PROVENANCE_KEY = "synthcxr"
XMP_KEY = "XML:com.adobe.xmp"
_XMP_KEYS = (XMP_KEY, "xmp")  # as Pillow calls it in a PNG, and in a JPEG
_SOURCE_TYPES = "http://cv.iptc.org/newscodes/digitalsourcetype/"
DIGITAL_SOURCE_TYPE = f"{_SOURCE_TYPES}trainedAlgorithmicMedia"
# The terms of that vocabulary for what no camera or detector took, or not alone.
_SYNTHETIC = re.compile(
    rb"digitalsourcetype/(trainedAlgorithmicMedia|compositeWithTrainedAlgorithmicMedia|algorithmicMedia"
    rb"|compositeSynthetic)\b",
    re.IGNORECASE,
)
_XMP = (
    '<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>'
    '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
    '<rdf:Description rdf:about="" xmlns:Iptc4xmpExt="http://iptc.org/std/Iptc4xmpExt/2008-02-29/">'
    f"<Iptc4xmpExt:DigitalSourceType>{DIGITAL_SOURCE_TYPE}</Iptc4xmpExt:DigitalSourceType>"
    '</rdf:Description></rdf:RDF></x:xmpmeta><?xpacket end="w"?>'
)
# What Pillow raises on damaged files, besides OSError: each was seen on a truncated or altered PNG or JPEG.
_BROKEN = (
    OSError, SyntaxError, ValueError, EOFError, struct.error, zlib.error, KeyError, IndexError, TypeError,
    Image.DecompressionBombError, Image.DecompressionBombWarning,
)  # fmt: skip


def read_image(path_or_bytes: Path | str | bytes, name: str | None = None) -> np.ndarray:
    """Decode a PNG or JPEG into (h, w) pixels, upright as its EXIF says.

    16-bit gray stays uint16; all else becomes uint8, colours by ITU-R 601 luma (gray ones keep their value exactly).

    Args:
        path_or_bytes: a file's path, or its contents.
        name: what error messages call it; by default the path.
    Raises:
        ImageError: no such file, not a PNG or JPEG, damaged, or more than MAX_PIXELS (checked before decoding).
    """
    return read_marked(path_or_bytes, name)[0]


def read_marked(path_or_bytes: Path | str | bytes, name: str | None = None) -> tuple[np.ndarray, str | None]:
    """`read_image`, and the mark that says the image is synthetic, in words; None where it carries none.

    Marks are those of `encode_png`, and any other program's Iptc4xmpExt:DigitalSourceType (IPTC Photo Metadata 2023.1)
    that names an algorithm as the source, in the XMP of a PNG or a JPEG.
    """
    name = name or _name_of(path_or_bytes)
    with _open(path_or_bytes, name) as image:
        try:
            pixels = _pixels(ImageOps.exif_transpose(image), name)
        except _BROKEN as error:
            raise ImageError(f"{name}: damaged {image.format} ({error}); replace or remove it") from None
        return pixels, _mark(image.info)  # now that it's decoded, chunks after the pixels are known as well


def to_float(pixels: np.ndarray) -> np.ndarray:
    """uint8 or uint16 pixels of any shape -> float32 in [-1, 1]."""
    return (pixels.astype(np.float64) * (2.0 / _largest(pixels.dtype)) - 1.0).astype(np.float32)


def from_float(image: np.ndarray, bits: int = 8) -> np.ndarray:
    """Floats of any shape -> uint8 (bits=8) or uint16 (bits=16): clipped to [-1, 1], rounded to the nearest.

    Raises:
        ImageError: a value is not a number (a diverged model).
    """
    if bits not in (8, 16):
        raise ValueError(f"bits = {bits} must be 8 or 16")
    if np.isnan(image).any():
        raise ImageError("the image has pixels that are not numbers: the model that made it has diverged")
    dtype = np.uint8 if bits == 8 else np.uint16
    clipped = np.clip(image.astype(np.float64), -1.0, 1.0)
    return np.rint((clipped + 1.0) * (_largest(np.dtype(dtype)) / 2.0)).astype(dtype)


def to_square(image: np.ndarray, size: int) -> np.ndarray:
    """(h, w) float in [-1, 1] -> (size, size) float32 in [-1, 1]: the centre square, resized once with antialiasing.

    Cropping keeps the aspect ratio: a heart's width against the chest's is a finding. Lanczos overshoot is clipped.
    """
    if image.ndim != 2 or size < 1:
        raise ValueError(f"an image of shape {image.shape} can't be made {size} x {size}; give (h, w) and size >= 1")
    side = min(image.shape)
    top, left = (image.shape[0] - side) // 2, (image.shape[1] - side) // 2
    square = np.ascontiguousarray(image[top : top + side, left : left + side], dtype=np.float32)
    if side == size:
        return np.clip(square, -1.0, 1.0)
    # Pillow widens the filter when shrinking, which is what antialiases; mode F keeps float32 throughout.
    resized = Image.fromarray(square).resize((size, size), Image.Resampling.LANCZOS)
    return np.clip(np.array(resized, dtype=np.float32), -1.0, 1.0)


def encode_png(pixels: np.ndarray, provenance: Mapping[str, Any] | None = None) -> bytes:
    """(h, w) uint8 or uint16 -> the bytes of an 8- or 16-bit gray PNG; the same bytes for the same arguments.

    Args:
        provenance: None for a real image. Given (prompt, seed, model hash, ...), the file is marked as synthetic:
            XMP Iptc4xmpExt:DigitalSourceType = trainedAlgorithmicMedia (IPTC Photo Metadata 2023.1), and the
            provenance as JSON in an iTXt chunk named "synthcxr", which `read_provenance` gives back.
    """
    _largest(pixels.dtype)
    if pixels.ndim != 2 or pixels.size == 0:
        raise ValueError(f"pixels of shape {pixels.shape} must be (h, w) and not empty")
    info = PngImagePlugin.PngInfo()
    if provenance is not None:
        text = json.dumps(provenance, sort_keys=True, ensure_ascii=False, allow_nan=False)
        info.add_itxt(XMP_KEY, _XMP)
        info.add_itxt(PROVENANCE_KEY, text)
    buffer = io.BytesIO()
    native = np.ascontiguousarray(pixels, dtype=pixels.dtype.newbyteorder("="))
    Image.fromarray(native).save(buffer, format="PNG", pnginfo=info, compress_level=6)
    return buffer.getvalue()


def write_png(path: Path | str, pixels: np.ndarray, provenance: Mapping[str, Any] | None = None) -> None:
    """`encode_png` into a file, whole or not at all."""
    write_bytes(path, encode_png(pixels, provenance))


def read_provenance(path: Path | str | bytes) -> dict[str, Any] | None:
    """What `encode_png` was told about a synthetic image; None for an image that doesn't carry our mark.

    Raises:
        ImageError: no such file, not a PNG or JPEG, or a mark that is damaged.
    """
    name = _name_of(path)
    with _open(path, name) as image:
        text = image.info.get(PROVENANCE_KEY)
    if text is None:
        return None
    try:
        provenance = json.loads(text)
    except (ValueError, TypeError, RecursionError):
        provenance = None
    if not isinstance(provenance, dict):
        raise ImageError(f"{name}: its 'synthcxr' chunk must hold a JSON object; the file was altered")
    return provenance


def _mark(info: Mapping[Any, Any]) -> str | None:
    if PROVENANCE_KEY in info:
        return f"chunk {PROVENANCE_KEY!r}"
    xmp = b"".join(
        value if isinstance(value, bytes) else str(value).encode() for key, value in info.items() if key in _XMP_KEYS
    )
    found = _SYNTHETIC.search(xmp)
    return f"DigitalSourceType {found[1].decode()}" if found else None


def contact_sheet(images: Sequence[np.ndarray], columns: int, captions: Sequence[str] | None = None) -> np.ndarray:
    """Lay uint8 (h, w) images out in rows of `columns`, row by row, each over its caption of at most three lines.

    Returns:
        uint8 (rows, width), black between the images; cells are as large as the largest image.
    """
    if not images or columns < 1:
        raise ValueError(f"a contact sheet needs images and columns >= 1, not {len(images)} and {columns}")
    if captions is not None and len(captions) != len(images):
        raise ValueError(f"{len(captions)} captions for {len(images)} images")
    gap, line_height, max_lines = 4, 14, 3
    cell_h, cell_w = (max(image.shape[axis] for image in images) for axis in (0, 1))
    font = ImageFont.load_default(size=11)
    lines = [_wrap(caption, font, cell_w, max_lines) for caption in captions or [""] * len(images)]
    pitch_h = cell_h + gap + line_height * max(map(len, lines))
    pitch_w = cell_w + gap
    rows = math.ceil(len(images) / columns)
    sheet = Image.new("L", (min(columns, len(images)) * pitch_w + gap, rows * pitch_h + gap), 0)
    draw = ImageDraw.Draw(sheet)
    for index, image in enumerate(images):
        if image.dtype != np.uint8 or image.ndim != 2:
            raise ValueError(f"image {index} is {image.dtype} {image.shape}; a contact sheet takes uint8 (h, w)")
        x, y = gap + index % columns * pitch_w, gap + index // columns * pitch_h
        sheet.paste(Image.fromarray(np.ascontiguousarray(image)), (x, y))
        for number, line in enumerate(lines[index]):
            draw.text((x, y + cell_h + 1 + number * line_height), line, fill=255, font=font)
    return np.array(sheet)


def _wrap(caption: str, font: Any, width: int, max_lines: int) -> list[str]:
    """Words into lines of at most `width` pixels; what doesn't fit ends in "..."."""
    lines: list[str] = []
    for word in caption.split():
        if lines and font.getlength(f"{lines[-1]} {word}") <= width:
            lines[-1] += f" {word}"
        else:
            lines.append(word)
    if len(lines) > max_lines:
        lines = [*lines[: max_lines - 1], lines[max_lines - 1] + " ..."]
    return [_cut(line, font, width) for line in lines]


def _cut(line: str, font: Any, width: int) -> str:
    if font.getlength(line) <= width:
        return line
    while line and font.getlength(line + "...") > width:
        line = line[:-1]
    return line + "..." if line else ""


def _name_of(path_or_bytes: Path | str | bytes) -> str:
    return "image" if isinstance(path_or_bytes, bytes) else shown(path_or_bytes)


def _open(path_or_bytes: Path | str | bytes, name: str) -> Image.Image:
    """Read the header only, of the two formats that we decode; other decoders of Pillow are never reached."""
    source = io.BytesIO(path_or_bytes) if isinstance(path_or_bytes, bytes) else path_or_bytes
    try:
        image = Image.open(source, formats=("PNG", "JPEG"))
    except FileNotFoundError:
        raise ImageError(f"{name}: there is no such file") from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise ImageError(f"{name}: has more than {MAX_PIXELS:,} pixels; shrink it first") from None
    except _BROKEN as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise ImageError(f"{name}: can't be read ({error.strerror})") from None
        raise ImageError(f"{name}: is not a PNG or JPEG image") from None
    if image.width * image.height > MAX_PIXELS:
        image.close()
        raise ImageError(f"{name}: {image.width} x {image.height} is more than {MAX_PIXELS:,} pixels; shrink it first")
    return image


def _pixels(image: Image.Image, name: str) -> np.ndarray:
    if image.mode == "L":
        return np.array(image, dtype=np.uint8)
    if image.mode.startswith("I"):  # 16-bit PNGs open as I;16 or I; convert("L") would clip them at 255
        wide = np.array(image)
        if wide.min() < 0 or wide.max() > np.iinfo(np.uint16).max:
            raise ImageError(f"{name}: gray values must fit in 16 bits")
        return wide.astype(np.uint16)
    if image.mode in ("1", "LA", "La"):
        return np.array(image.convert("L"), dtype=np.uint8)
    return np.array(image.convert("RGB").convert("L"), dtype=np.uint8)


def _largest(dtype: np.dtype) -> int:
    if dtype not in (np.uint8, np.uint16):
        raise ValueError(f"pixels must be uint8 or uint16, not {dtype}")
    return int(np.iinfo(dtype).max)
