"""DICOM files as tests need them: right ones in every compression, and a seeded recipe for hundreds of wrong ones."""

import io
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from PIL import Image
from pydicom import uid
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.pixels import get_encoder

NATIVE = (uid.ImplicitVRLittleEndian, uid.ExplicitVRLittleEndian, uid.ExplicitVRBigEndian)
LOSSLESS = (uid.JPEGLossless, uid.JPEGLosslessSV1, uid.JPEGLSLossless, uid.JPEG2000Lossless, uid.RLELossless)
DICOM_HEAD = bytes(128) + b"DICM"


def chest(bits: int = 12, signed: bool = False, shape: tuple[int, int] = (40, 48), seed: int = 0) -> np.ndarray:
    """Smooth stored values that fill the range of `bits` bits."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[: shape[0], : shape[1]]
    waves = np.sin(x / rng.uniform(4, 9)) + np.cos(y / rng.uniform(4, 9)) + rng.normal(0, 0.05, shape)
    share = (waves - waves.min()) / np.ptp(waves)
    values = np.rint(share * (2**bits - 1)) - (2 ** (bits - 1) if signed else 0)
    return values.astype(f"{'i' if signed else 'u'}{1 if bits <= 8 else 2}")


def dataset(stored: np.ndarray, bits: int = 12, syntax: uid.UID = uid.ExplicitVRLittleEndian, **elements) -> Dataset:
    """An image with the elements given set, or left out where None."""
    ds = Dataset()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = uid.ExplicitVRLittleEndian
    ds.SOPClassUID = ds.file_meta.MediaStorageSOPClassUID = uid.DigitalXRayImageStorageForPresentation
    ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = "2.25.1"
    ds.Modality, ds.PatientID = "DX", "patient-1"
    ds.set_pixel_data(stored, "MONOCHROME2", bits, generate_instance_uid=False)
    if syntax in NATIVE and not syntax.is_little_endian and stored.dtype.itemsize == 2:
        ds.PixelData = stored.byteswap().tobytes()
    elif syntax.is_encapsulated:
        ds.PixelData = encapsulate([compressed(stored, bits, syntax)])
        ds["PixelData"].VR = "OB"
    ds.file_meta.TransferSyntaxUID = syntax
    for keyword, value in elements.items():
        if value is None:
            delattr(ds, keyword)
        else:
            setattr(ds, keyword, value)
    return ds


def compressed(stored: np.ndarray, bits: int, syntax: uid.UID) -> bytes:
    """One frame's stream; without loss but for JPEG baseline and extended."""
    if syntax in (uid.JPEGBaseline8Bit, uid.JPEGExtended12Bit):
        buffer = io.BytesIO()
        Image.fromarray(stored).save(buffer, "JPEG", quality=95)
        return buffer.getvalue()
    if syntax in (uid.JPEGLossless, uid.JPEGLosslessSV1):
        return lossless_jpeg(stored, bits, predictor=1 if syntax == uid.JPEGLosslessSV1 else 4)
    plugin = {uid.RLELossless: "pydicom", uid.JPEGLSLossless: "pyjpegls"}.get(syntax, "pylibjpeg")
    return get_encoder(syntax).encode(
        stored, encoding_plugin=plugin, rows=stored.shape[0], columns=stored.shape[1], samples_per_pixel=1,
        number_of_frames=1, bits_allocated=8 * stored.dtype.itemsize, bits_stored=bits, pixel_keyword="PixelData",
        pixel_representation=int(stored.dtype.kind == "i"), photometric_interpretation="MONOCHROME2",
    )  # fmt: skip


def lossless_jpeg(stored: np.ndarray, bits: int, predictor: int) -> bytes:
    """ISO 10918-1 annex H, one Huffman table in which each of the 17 categories has the code of its number, 5 bits.

    Args:
        predictor: 1 (left) or 4 (left + above - above left).
    """
    samples = stored.astype(np.int64) % 2**bits
    left, above, corner = (np.roll(samples, shift, axes) for shift, axes in ((1, 1), (1, 0), ((1, 1), (0, 1))))
    guess = left if predictor == 1 else left + above - corner
    guess[:, 0], guess[0] = above[:, 0], left[0]
    guess[0, 0] = 2 ** (bits - 1)
    differences = (samples - guess + 2**15) % 2**16 - 2**15
    text = []
    for difference in differences.ravel().tolist():
        size = abs(difference).bit_length()
        extra = difference if difference > 0 else difference + 2**size - 1
        text.append(f"{size:05b}" + (f"{extra:0{size}b}" if 0 < size < 16 else ""))
    code = "".join(text)
    code += "1" * (-len(code) % 8)
    scan = int(code, 2).to_bytes(len(code) // 8, "big").replace(b"\xff", b"\xff\0")
    frame = struct.pack(">BHHB3B", bits, *stored.shape, 1, 1, 0x11, 0)
    table = bytes([0, *(17 if length == 5 else 0 for length in range(1, 17)), *range(17)])
    segments = ((0xC3, frame), (0xC4, table), (0xDA, bytes([1, 1, 0, predictor, 0, 0])))
    marked = b"".join(b"\xff" + struct.pack(">BH", marker, len(body) + 2) + body for marker, body in segments)
    return b"\xff\xd8" + marked + scan + b"\xff\xd9"


def data_of(ds: Dataset) -> bytes:
    buffer = io.BytesIO()
    ds.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


@dataclass(frozen=True)
class Wrong:
    """A malformed file. `hopeless`: no reader could make an image of it; else it may pass, as a flipped bit can."""

    name: str
    data: bytes
    hopeless: bool = True
    says: str = ""


def wrong_files(seed: int = 0) -> Iterator[Wrong]:
    """Every kind of malformed file that the reader has to survive; the same ones for the same seed."""
    rng = np.random.default_rng(seed)
    syntaxes = (uid.ImplicitVRLittleEndian, uid.ExplicitVRLittleEndian, uid.DeflatedExplicitVRLittleEndian, *LOSSLESS)
    whole = {syntax: data_of(dataset(chest(), 12, syntax)) for syntax in syntaxes}
    whole[uid.JPEGBaseline8Bit] = data_of(dataset(chest(8), 8, uid.JPEGBaseline8Bit))
    for syntax, data in whole.items():
        tail = 40 if syntax.is_encapsulated else 1  # the very end of a stream may be no more than padding and marks
        for cut in (0, 1, 131, 132, 140, *rng.integers(150, len(data) - tail, 10)):
            yield Wrong(f"cut-{syntax}-{cut}", data[:cut])
        for number in range(14):
            flipped = bytearray(data)
            # As many in the header, where a bit means most, as anywhere.
            for place in rng.integers(0, len(data) if number % 2 else 800, 1 + number % 5):
                flipped[place] ^= 1 << int(rng.integers(8))
            yield Wrong(f"flipped-{syntax}-{number}", bytes(flipped), hopeless=False)
    yield from _wrong_sizes()
    yield from _wrong_elements()
    yield from _wrong_types()
    yield from _bombs()
    yield from _no_images()


def _wrong_sizes() -> Iterator[Wrong]:
    for syntax in (uid.ExplicitVRLittleEndian, uid.JPEG2000Lossless, uid.JPEGLosslessSV1, uid.RLELossless):
        for rows, columns in ((65535, 65535), (0, 48), (40, 0), (20000, 4001), (41, 48), (39, 48), (1, 65535)):
            ds = dataset(chest(), 12, syntax, Rows=rows, Columns=columns)
            # Native data for 40 rows do for 39, and run-length segments have no size of their own.
            sized = rows * columns > 48 * 40 or rows * columns == 0 or syntax.is_encapsulated
            yield Wrong(f"size-{syntax}-{rows}x{columns}", data_of(ds), hopeless=sized and syntax != uid.RLELossless)
    stream = compressed(chest(), 12, uid.JPEG2000Lossless)
    huge = stream[:8] + struct.pack(">2I", 60000, 60000) + stream[16:]
    tiny_tiles = stream[:24] + struct.pack(">2I", 1, 1) + stream[32:]
    jpeg = compressed(chest(8), 8, uid.JPEGBaseline8Bit)
    at = jpeg.index(b"\xff\xc0") + 5
    for name, syntax, frame, hopeless in (
        ("j2k-huge", uid.JPEG2000Lossless, huge, True), ("j2k-tiles", uid.JPEG2000Lossless, tiny_tiles, False),
        ("j2k-wrapped", uid.JPEG2000Lossless, b"\0\0\0\x0cjP  \r\n\x87\n\0\0\0\0" + stream, True),
        ("jpeg-huge", uid.JPEGBaseline8Bit, jpeg[:at] + struct.pack(">2H", 65000, 65000) + jpeg[at + 4 :], True),
        ("jpeg-short-marker", uid.JPEGBaseline8Bit, b"\xff\xd8\xff\xe0\0\0" + jpeg[20:], True),
        ("jpeg-of-nothing", uid.JPEGBaseline8Bit, b"\xff" * 300, True),
        ("rle-of-nothing", uid.RLELossless, bytes(2), True),
    ):  # fmt: skip
        bits = 8 if syntax == uid.JPEGBaseline8Bit else 12
        yield Wrong(name, data_of(dataset(chest(bits), bits, syntax, PixelData=encapsulate([frame]))), hopeless)


def _wrong_elements() -> Iterator[Wrong]:
    """Headers that say what can't be, or what is no radiograph; each with the element that the message must name."""
    needed = "Rows Columns BitsAllocated BitsStored PixelRepresentation SamplesPerPixel PhotometricInterpretation"
    for keyword in needed.split():
        yield Wrong(f"without-{keyword}", data_of(dataset(chest(), **{keyword: None})), says=keyword)
    for number, elements in enumerate([
        *({"PhotometricInterpretation": name} for name in ("RGB", "YBR_FULL", "YBR_FULL_422", "PALETTE COLOR", "GRAY")),
        *({"SamplesPerPixel": count} for count in (0, 2, 3)), *({"NumberOfFrames": count} for count in (0, 2, 65535)),
        *({"Modality": name} for name in ("CT", "MR", "US", "MG", "NM", "SEG")), {"PixelRepresentation": 7},
        *({"BitsAllocated": bits} for bits in (1, 12, 32, 0)), *({"BitsStored": bits} for bits in (0, 17, 1)),
        {"HighBit": 15}, {"VOILUTFunction": "CURVE", "WindowCenter": 9, "WindowWidth": 9}, {"RescaleSlope": 0},
        *({"WindowWidth": width, "WindowCenter": 100} for width in (0, -5)),
    ]):  # fmt: skip
        if "RescaleSlope" in elements:
            elements = {**elements, "RescaleIntercept": 0}
        yield Wrong(f"element-{number}", data_of(dataset(chest(), **elements)), says=next(iter(elements)))
    for number, elements in enumerate([{"PixelData": None}, {"PixelData": b""}, {"PixelData": b"\0" * 40 * 48}]):
        yield Wrong(f"pixels-{number}", data_of(dataset(chest(), **elements)), says="pixel data")
    twice = chest().tobytes() * 2
    yield Wrong("pixels-twice", data_of(dataset(chest(), PixelData=twice)), says="more than the one frame")
    for bits in (8, 12):
        yield Wrong(f"blank-{bits}", data_of(dataset(np.full((40, 48), 7, chest(bits).dtype), bits)), says="blank")
    yield Wrong("window-aside", data_of(dataset(chest(), WindowCenter=-9000, WindowWidth=10)), says="alike")
    for number, (count, first, bits, length) in enumerate([(0, 0, 16, 9), (300, 0, 16, 200), (300, 0, 40, 300)]):
        table = Dataset()
        table.LUTDescriptor, table.LUTData = [count, first, bits], np.arange(length, dtype="<u2").tobytes()
        table["LUTData"].VR = "OW"
        yield Wrong(f"table-{number}", data_of(dataset(chest(), VOILUTSequence=[table])), says="table")
    other = (uid.MPEG2MPML, uid.HTJ2KLossless, uid.JPEGExtended12Bit, "1.2.840.10008.1.2.4.94", "1.2.3", "")
    for syntax in other:
        data = data_of(dataset(chest(), 12, uid.RLELossless))
        yield Wrong(f"syntax-{syntax}", _with_value(data, uid.RLELossless, syntax), hopeless=True)


def _wrong_types() -> Iterator[Wrong]:
    """Each element of an explicit file in turn under another value representation, or with a length that lies."""
    data = data_of(dataset(chest(), WindowCenter=2000, WindowWidth=3000, PatientAge="045Y", ViewPosition="PA"))
    at = data.index(b"\x08\0\x16\0UI")
    while at < len(data) - 12:
        kind = data[at + 4 : at + 6]
        wide = kind in (b"OW", b"OB", b"SQ")
        length = struct.unpack("<I" if wide else "<H", data[at + 8 : at + 12] if wide else data[at + 6 : at + 8])[0]
        tag = data[at : at + 4].hex()
        for other in (b"US", b"SS", b"DS", b"FD", b"UI", b"AT", b"zz", b"\0\0"):
            if other != kind:
                yield Wrong(f"type-{tag}-{other.hex()}", data[: at + 4] + other + data[at + 6 :], hopeless=False)
        for size in (0, 1, 0xFFFE, 0xFFFF):
            lie = struct.pack("<HI", 0, size * 65537) if wide else struct.pack("<H", size)
            lied = data[: at + 6] + lie + data[at + 6 + len(lie) :]
            yield Wrong(f"length-{tag}-{size}", lied, hopeless=False)
        at += (12 if wide else 8) + length


def _bombs() -> Iterator[Wrong]:
    head = data_of(dataset(chest(), 12, uid.DeflatedExplicitVRLittleEndian))
    head = head[: 144 + struct.unpack("<I", head[140:144])[0]]
    # A megabyte of zeros ends at a byte boundary, so that it can be repeated: 2 GiB out of 2 MiB.
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    packer.compress(b"")
    zeros = packer.compress(bytes(1 << 20)) + packer.flush(zlib.Z_FULL_FLUSH)
    for name, element in (
        ("pixels", b"\xe0\x7f\x10\0OW\0\0\xfe\xff\xff\x7f"),
        ("private", b"\x09\0\x10\0OB\0\0\0\0\0\x70"),
    ):
        start = zlib.compressobj(9, zlib.DEFLATED, -15)
        packed = start.compress(element) + start.flush(zlib.Z_FULL_FLUSH)
        yield Wrong(f"bomb-{name}", head + packed + zeros * 2048, says="expands to more than")
    yield Wrong("bomb-garbage", head + b"\x5a" * 4000)
    segments = struct.pack("<16I", 2, 64, 20064, *[0] * 13)
    frame = segments + b"\x81\x01" * 20000  # runs of 128, ten times what the image holds
    yield Wrong("bomb-runs", data_of(dataset(chest(), 12, uid.RLELossless, PixelData=encapsulate([frame]))))
    explicit = data_of(dataset(chest()))
    at = explicit.index(b"\x28\0\x02\0US")
    opened = b"\x40\0\x55\0SQ\0\0\xff\xff\xff\xff" + b"\xfe\xff\0\xe0\xff\xff\xff\xff"
    for tag in (b"\x40\0\x55\0", b"\x28\0\x10\x30", b"\x09\0\x10\x10", b"\x08\0\x18\x22"):
        for depth in (2_000, 40_000):
            nested = (tag + opened[4:]) * depth
            yield Wrong(f"nested-{tag.hex()}-{depth}", explicit[:at] + nested + explicit[at:], says="nested too deep")
    closed = b"\xfe\xff\x0d\xe0\0\0\0\0" + b"\xfe\xff\xdd\xe0\0\0\0\0"
    whole = opened * 2_000 + closed * 2_000
    yield Wrong("nested-closed", explicit[:at] + whole + explicit[at:], says="nested too deep")


def _no_images() -> Iterator[Wrong]:
    picture = io.BytesIO()
    Image.fromarray(chest(8)).save(picture, "PNG")
    explicit = data_of(dataset(chest()))
    for name, data in {
        "empty": b"", "text": b"no picture at all\n" * 50, "png": picture.getvalue(), "head": DICOM_HEAD,
        "no-preamble": explicit[132:], "zeros": bytes(5000), "head-and-noise": DICOM_HEAD + explicit[::-1],
        "ones": DICOM_HEAD + b"\xff" * 5000, "no-meta": DICOM_HEAD + explicit[explicit.index(b"\x08\0\x16\0UI") :],
    }.items():  # fmt: skip
        yield Wrong(f"no-image-{name}", data)


def _with_value(data: bytes, old: str, new: str) -> bytes:
    """Another value for the transfer syntax, in place."""
    even = old + "\0" * (len(old) % 2)
    at = data.index(b"\x02\0\x10\0UI")
    value = new + "\0" * (len(new) % 2)
    return data[: at + 6] + struct.pack("<H", len(value)) + value.encode() + data[at + 8 + len(even) :]
