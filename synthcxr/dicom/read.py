"""Reading radiographs from DICOM files that nobody vouches for: every limit is checked before a pixel is decoded.

A hostile file can still cost memory and time inside a decoder: `guard.Guard` runs this in a process that may die.
"""

import stat
import struct
import warnings
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Literal, TypeVar, cast

import numpy as np
from pydicom import uid
from pydicom.datadict import tag_for_keyword
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import get_frame
from pydicom.errors import InvalidDicomError
from pydicom.filereader import read_dataset, read_preamble
from pydicom.pixels import get_decoder

from synthcxr import images
from synthcxr.dicom import header
from synthcxr.dicom.display import displayed
from synthcxr.dicom.header import text, whole
from synthcxr.errors import ImageError, shown
from synthcxr.vocabulary import Sex, View

MAX_BYTES = 1 << 28  # of a file: MAX_PIXELS of 16 bits are 160 MB
MAX_INFLATED = 1 << 26  # bytes that a deflated file may expand to: 33 million pixels of 16 bits

# The decoder of each compression: one each, so that pixels don't depend on what else is installed. Pillow is the most
# robust on damaged JPEG; GDCM alone decodes lossless JPEG under a free licence, and ends on cut JPEG-LS.
DECODERS = {
    uid.ImplicitVRLittleEndian: "", uid.ExplicitVRLittleEndian: "", uid.ExplicitVRBigEndian: "",
    uid.DeflatedExplicitVRLittleEndian: "",
    uid.JPEGBaseline8Bit: "pillow", uid.JPEGExtended12Bit: "pillow", uid.JPEGLossless: "gdcm",
    uid.JPEGLosslessSV1: "gdcm", uid.JPEGLSLossless: "gdcm", uid.JPEGLSNearLossless: "gdcm",
    uid.JPEG2000Lossless: "pylibjpeg", uid.JPEG2000: "pylibjpeg", uid.RLELossless: "pydicom",
}  # fmt: skip
NO_RADIOGRAPHS = "BMD CT ES GM IO IVOCT IVUS MG MR NM OCT OP OPT PT PX RTDOSE SEG SM US XC".split()
_KEYWORDS = """
    SpecificCharacterSet SOPInstanceUID StudyDate AcquisitionDate ContentDate SyntheticData Modality PatientID
    PatientBirthDate PatientSex PatientAge BodyPartExamined ViewPosition ImagerPixelSpacing StudyInstanceUID
    SeriesInstanceUID PatientOrientation SamplesPerPixel PhotometricInterpretation NumberOfFrames Rows Columns
    PixelSpacing BitsAllocated BitsStored HighBit PixelRepresentation PixelPaddingValue PixelPaddingRangeLimit
    WindowCenter WindowWidth VOILUTFunction RescaleIntercept RescaleSlope ModalityLUTSequence VOILUTSequence
    ViewCodeSequence ContributingEquipmentSequence BurnedInAnnotation PixelData
"""
_TAGS = [cast(int, tag_for_keyword(keyword)) for keyword in _KEYWORDS.split()]
# What pydicom and the decoders raise on damaged files.
_BROKEN = (
    *header.BROKEN, OSError, EOFError, BufferError, StopIteration, SyntaxError, AssertionError, zlib.error,
)  # fmt: skip

T = TypeVar("T")


@dataclass(frozen=True, eq=False)
class DicomImage:
    """One radiograph and what its file says of it; what the file doesn't say, or says in no known form, is None.

    `pixels` are (height, width), uint8 or uint16 as displayed, 0 = black (see `display.displayed`). `pixel_spacing` is
    in mm, between rows and between columns (see `header.spacing`). `age` is in whole years, 0 to 120. `synthetic` is
    the mark of synthetic origin, in words (see `header.synthetic`). `burned_in` is whether BurnedInAnnotation
    (0028,0301) is YES: the pixels may show a name.
    """

    pixels: np.ndarray
    width: int
    height: int
    bits_stored: int
    photometric: Literal["MONOCHROME1", "MONOCHROME2"]
    pixel_spacing: tuple[float, float] | None
    patient_id: str | None
    study_uid: str | None
    series_uid: str | None
    sop_uid: str | None
    age: int | None
    sex: Sex | None
    view: View | None
    modality: str | None
    body_part: str | None
    synthetic: str | None
    burned_in: bool


def read_dicom(path: Path | str) -> DicomImage:
    """Read a single-frame grayscale radiograph.

    Raises:
        ImageError: one line that names the file: not a DICOM file, damaged, compressed in a way that isn't read, no
            gray single-frame image, a modality that is no radiograph, too large, or blank.
    """
    return _take(path, _image)


def stored_pixels(path: Path | str) -> np.ndarray:
    """(h, w) stored values, int or uint of 8 or 16 bits: what pydicom's `Dataset.pixel_array` gives for the file.

    Raises:
        ImageError: as `read_dicom`, but for what concerns the display.
    """
    return _take(path, _stored)


def _take(path: Path | str, what: Callable[[Dataset], T]) -> T:
    """`what(dataset)`; every way in which a file can be wrong becomes one line."""
    name = shown(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # pydicom warns of every oddity; what counts is checked here
            return what(_dataset(_contents(Path(path))))
    except ImageError as error:
        raise ImageError(f"{name}: {error}") from None
    except RecursionError:
        raise ImageError(f"{name}: its sequences are nested too deep; no radiograph needs that, remove it") from None
    except MemoryError:
        raise ImageError(f"{name}: needs more memory than there is; remove it") from None
    except _BROKEN as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise ImageError(f"{name}: can't be read ({error.strerror})") from None
        raise ImageError(f"{name}: damaged DICOM ({type(error).__name__}); replace or remove it") from None


def _contents(path: Path) -> bytes:
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):
        raise ImageError("is no file")
    if status.st_size > MAX_BYTES:
        raise ImageError(f"{status.st_size:,} bytes are more than {MAX_BYTES:,}; no radiograph is that large")
    with open(path, "rb") as file:
        return file.read(status.st_size)


def _dataset(contents: bytes) -> Dataset:
    """The elements that are used, out of the file's bytes; a deflated part expands to MAX_INFLATED bytes at most."""
    file = BytesIO(contents)
    try:
        read_preamble(file, force=False)
    except InvalidDicomError:
        raise ImageError("is no DICOM file (no DICM at byte 128, PS3.10 7.1)") from None
    # Group 2 is always explicit VR little endian; reading ends at the first element of another group.
    meta = FileMetaDataset(read_dataset(file, False, True, stop_when=lambda tag, vr, length: tag >> 16 != 2))
    syntax = meta.get("TransferSyntaxUID")
    if syntax not in DECODERS:
        named = f"transfer syntax {str(uid.UID(syntax).name)[:80]}" if syntax else "a file without a transfer syntax"
        raise ImageError(f"{named} isn't read; convert the file to Explicit VR Little Endian")
    if syntax == uid.DeflatedExplicitVRLittleEndian:
        inflater = zlib.decompressobj(-zlib.MAX_WBITS)
        file = BytesIO(inflater.decompress(contents[file.tell() :], MAX_INFLATED + 1))
        if file.getbuffer().nbytes > MAX_INFLATED:
            raise ImageError(f"its deflated part expands to more than {MAX_INFLATED:,} bytes; remove it")
    ds = read_dataset(file, syntax.is_implicit_VR, syntax.is_little_endian, specific_tags=_TAGS)
    ds.file_meta = meta
    return ds


def _image(ds: Dataset) -> DicomImage:
    stored = _stored(ds)
    bits = whole(ds, "BitsStored", 2, 16)
    return DicomImage(
        pixels=displayed(stored, ds, bits),
        width=stored.shape[1],
        height=stored.shape[0],
        bits_stored=bits,
        photometric=ds.PhotometricInterpretation,
        pixel_spacing=header.spacing(ds),
        patient_id=text(ds, "PatientID"),
        study_uid=text(ds, "StudyInstanceUID"),
        series_uid=text(ds, "SeriesInstanceUID"),
        sop_uid=text(ds, "SOPInstanceUID"),
        age=header.age(ds),
        sex=header.sex(ds),
        view=header.view(ds),
        modality=text(ds, "Modality"),
        body_part=text(ds, "BodyPartExamined"),
        synthetic=header.synthetic(ds),
        burned_in=(text(ds, "BurnedInAnnotation") or "").upper() == "YES",
    )


def _stored(ds: Dataset) -> np.ndarray:
    """Check all that the header says of the pixels (PS3.3 C.7.6.3), then decode them."""
    modality = (text(ds, "Modality") or "").upper()
    if modality in NO_RADIOGRAPHS:
        raise ImageError(f"Modality {modality} is no radiograph; give CR, DX, DR, RG or OT")
    if not isinstance(ds.get("PixelData"), bytes) or not ds.PixelData:
        raise ImageError("holds no pixel data, or is cut short; remove it, or fetch it again")
    frames = 1 if ds.get("NumberOfFrames") in (None, "") else int(ds.NumberOfFrames)
    if frames != 1:
        raise ImageError(f"NumberOfFrames = {frames} must be 1: only single-frame radiographs are read; split it")
    photometric = text(ds, "PhotometricInterpretation")
    samples = whole(ds, "SamplesPerPixel", 1, 4)
    if photometric not in ("MONOCHROME1", "MONOCHROME2") or samples != 1:
        said = f"PhotometricInterpretation {photometric} with SamplesPerPixel {samples}"
        raise ImageError(f"{said} must be MONOCHROME1 or MONOCHROME2 with 1; convert it to gray")
    ds.PhotometricInterpretation = photometric
    rows, columns = whole(ds, "Rows", 1, 65535), whole(ds, "Columns", 1, 65535)
    if rows * columns > images.MAX_PIXELS:
        raise ImageError(f"{columns} x {rows} is more than {images.MAX_PIXELS:,} pixels; shrink it first")
    allocated = whole(ds, "BitsAllocated", 1, 64)
    if allocated == 1:
        raise ImageError("BitsAllocated = 1 is a segmentation or an overlay, no radiograph; remove it")
    if allocated not in (8, 16):
        raise ImageError(f"BitsAllocated = {allocated} must be 8 or 16; convert it")
    bits = whole(ds, "BitsStored", 2, allocated)
    if ds.get("HighBit") is not None and ds.HighBit != bits - 1:
        raise ImageError(f"HighBit = {ds.HighBit} must be BitsStored - 1 = {bits - 1} (PS3.5 8.1.1)")
    whole(ds, "PixelRepresentation", 0, 1)
    return _decoded(ds, rows, columns, bits)


def _decoded(ds: Dataset, rows: int, columns: int, bits: int) -> np.ndarray:
    syntax = ds.file_meta.TransferSyntaxUID
    plugin = DECODERS[syntax]
    if syntax.is_encapsulated:
        frame = get_frame(ds.PixelData, 0, number_of_frames=1)
        size = _codestream_size(frame, syntax)
        if size is not None and size != (rows, columns):
            raise ImageError(f"its compressed image is {size[1]} x {size[0]}, its header says {columns} x {rows}")
        if len(frame) > (1 << 16) + 2 * rows * columns * (ds.BitsAllocated // 8):
            raise ImageError("its compressed image takes more than twice the space of a plain one; remove it")
    elif len(ds.PixelData) >= 2 * rows * columns * (ds.BitsAllocated // 8) > 2:
        raise ImageError("holds pixel data for more than the one frame that its header tells of")
    decoder = get_decoder(syntax)
    if syntax == uid.JPEGExtended12Bit and bits > 8:
        plugin = "pylibjpeg"
    if plugin and plugin not in decoder.available_plugins:
        known = {"gdcm": "python-gdcm", "pylibjpeg": "pylibjpeg-openjpeg"}.get(plugin, plugin)
        package = "pylibjpeg-libjpeg" if syntax == uid.JPEGExtended12Bit else known
        raise ImageError(f"{syntax.name} of {bits} bits needs the package {package}; install it, or convert the file")
    try:
        return decoder.as_array(ds, index=0, decoding_plugin=plugin)[0]
    except _BROKEN as error:
        said = " ".join(str(error).split()).rpartition("plugins: ")[2][:160] or type(error).__name__
        if said.endswith(":"):  # the decoder's name, without a word from it
            said += " no reason given, as when memory runs out"
        raise ImageError(f"its pixel data are damaged ({said}); replace or remove it") from None


def _codestream_size(frame: bytes, syntax: uid.UID) -> tuple[int, int] | None:
    """(h, w) that a JPEG (ISO 10918-1 B.2.2), JPEG-LS or JPEG 2000 (ISO 15444-1 A.5.1) stream will decode to."""
    if syntax in uid.JPEG2000TransferSyntaxes:
        if frame[:4] != b"\xff\x4f\xff\x51":
            raise ImageError("its JPEG 2000 stream must begin with SOC and SIZ, without a file wrapper (PS3.5 A.4.4)")
        right, bottom, left, top = struct.unpack(">4I", frame[8:24])
        return bottom - top, right - left
    if syntax == uid.RLELossless:
        return None
    at = 2
    while frame[at : at + 1] == b"\xff":
        marker = frame[at + 1]
        if marker == 0xF7 or 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            return struct.unpack(">2H", frame[at + 5 : at + 9])
        at += 1 if marker == 0xFF else 2 + int.from_bytes(frame[at + 2 : at + 4], "big")
    raise ImageError("its JPEG stream is damaged: it has no frame header")
