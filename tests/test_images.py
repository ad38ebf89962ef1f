import io
import struct
import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from synthcxr import images
from synthcxr.errors import ImageError
from synthcxr.images import (
    contact_sheet,
    encode_png,
    from_float,
    read_image,
    read_marked,
    read_provenance,
    to_float,
    to_square,
    write_png,
)


def noise(shape=(23, 17), dtype=np.uint8, seed=0):
    return np.random.default_rng(seed).integers(0, np.iinfo(dtype).max, shape, dtype, endpoint=True)


def encoded(image: Image.Image, kind: str = "PNG", **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_pixels_survive_the_file(tmp_path, dtype):
    pixels = noise(dtype=dtype)
    write_png(tmp_path / "a.png", pixels)
    for read in (read_image(tmp_path / "a.png"), read_image((tmp_path / "a.png").read_bytes())):
        assert read.dtype == dtype
        np.testing.assert_array_equal(read, pixels)
    assert read_provenance(tmp_path / "a.png") is None


@pytest.mark.parametrize(("dtype", "bits"), [(np.uint8, 8), (np.uint16, 16)])
def test_every_value_survives_the_float_form(dtype, bits):
    pixels = np.arange(np.iinfo(dtype).max + 1, dtype=dtype)
    image = to_float(pixels)
    assert (image.dtype, image.min(), image.max()) == (np.float32, -1, 1)
    np.testing.assert_array_equal(from_float(image, bits), pixels)


def test_floats_are_clipped_and_rounded_and_nan_is_refused():
    np.testing.assert_array_equal(from_float(np.array([-9, -1 + 1.1 / 127.5, 9])), [0, 1, 255])
    with pytest.raises(ImageError, match="diverged"):
        from_float(np.array([np.nan]))
    with pytest.raises(ValueError):
        from_float(np.zeros(1), bits=12)
    with pytest.raises(ValueError):
        to_float(np.zeros(1))


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "LA", "P", "1", "CMYK"])
def test_every_colour_form_of_a_gray_image_reads_as_that_gray(mode):
    gray = Image.fromarray(noise() // 128 * np.uint8(255) if mode == "1" else noise())
    kind = "JPEG" if mode == "CMYK" else "PNG"
    source = gray.convert("RGB").convert(mode) if mode == "CMYK" else gray.convert(mode)
    read = read_image(encoded(source, kind))
    assert read.dtype == np.uint8
    assert read.shape == (23, 17)
    if mode != "CMYK":
        np.testing.assert_array_equal(read, np.array(gray))


def test_an_exif_orientation_is_followed_since_side_is_meaning():
    exif = Image.Exif()
    exif[0x0112] = 6  # to be shown turned by 90 degrees
    pixels = np.zeros((16, 32), np.uint8)
    pixels[:, 16:] = 255
    read = read_image(encoded(Image.fromarray(pixels), "JPEG", exif=exif))
    assert read.shape == (32, 16)
    assert read[:10].max() < 30 and read[-10:].min() > 220


@given(st.integers(1, 60), st.integers(1, 60), st.integers(1, 60), st.integers(0, 9))
def test_a_square_has_the_size_asked_and_stays_in_range(height, width, size, seed):
    image = np.random.default_rng(seed).choice(np.float32([-1, 1]), (height, width))
    square = to_square(image, size)
    assert (square.shape, square.dtype) == ((size, size), np.float32)
    assert np.abs(square).max() <= 1
    if min(height, width) == size:
        top, left = (height - size) // 2, (width - size) // 2
        np.testing.assert_array_equal(square, image[top : top + size, left : left + size])


def test_shrinking_is_antialiased_and_centred():
    checkered = np.indices((128, 160)).sum(0) % 2 * 2.0 - 1
    assert np.abs(to_square(checkered, 16)[2:-2, 2:-2]).max() < 0.05
    np.testing.assert_allclose(to_square(np.full((90, 50), 0.25), 16), 0.25, atol=1e-6)
    for wrong in [(np.zeros((2, 2, 3)), 4), (np.zeros((2, 2)), 0)]:
        with pytest.raises(ValueError):
            to_square(*wrong)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_synthetic_images_carry_their_marks(tmp_path, dtype):
    provenance = {"prompt": "größe \u2713", "seed": 2**62, "model": "ab", "settings": {"steps": 25}}
    write_png(tmp_path / "a.png", noise(dtype=dtype), provenance)
    data = (tmp_path / "a.png").read_bytes()
    assert read_provenance(tmp_path / "a.png") == read_provenance(data) == provenance
    assert b"http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia" in data
    assert b"Iptc4xmpExt:DigitalSourceType" in data
    assert encode_png(noise(dtype=dtype), dict(reversed(provenance.items()))) == data
    np.testing.assert_array_equal(read_image(data), noise(dtype=dtype))
    assert read_provenance(encode_png(noise(), {})) == {}


def test_a_damaged_mark_is_said():
    data = encode_png(noise(), {"seed": 1})
    info = images.PngImagePlugin.PngInfo()
    info.add_itxt("synthcxr", "[1")
    with pytest.raises(ImageError, match="altered"):
        read_provenance(encoded(Image.fromarray(read_image(data)), pnginfo=info))


def test_files_that_are_no_images_are_named(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text.png").write_text("not a picture")
    (tmp_path / "empty.png").write_bytes(b"")
    (tmp_path / "gif.png").write_bytes(encoded(Image.fromarray(noise()), "GIF"))
    (tmp_path / "cut.png").write_bytes(encode_png(noise((200, 200)))[:9000])
    (tmp_path / "cut.jpg").write_bytes(encoded(Image.fromarray(noise((200, 200))), "JPEG")[:9000])
    for name in ("text.png", "empty.png", "gif.png", "cut.png", "cut.jpg", "absent.png", "."):
        with pytest.raises(ImageError, match=f"^{name}: ") as caught:
            read_image(tmp_path / name)
        assert "\n" not in str(caught.value)
    with pytest.raises(ImageError, match="^row 7: "):
        read_image(b"nonsense", name="row 7")


@given(st.integers(0, 2**32 - 1))
def test_altered_bytes_give_pixels_or_one_clear_error(seed):
    rng = np.random.default_rng(seed)
    kind = rng.choice(["PNG", "JPEG"])
    data = bytearray(encoded(Image.fromarray(noise()), kind))
    for position in rng.integers(0, len(data), 4):
        data[position] = rng.integers(256)
    try:
        assert read_image(bytes(data)).ndim == 2
    except ImageError:
        pass


def test_size_is_checked_before_decoding(monkeypatch):
    data = encode_png(noise((40, 40)))
    monkeypatch.setattr(images, "MAX_PIXELS", 1599)
    with pytest.raises(ImageError, match="40 x 40 is more than 1,599 pixels"):
        read_image(data)
    bomb = bytearray(data)
    bomb[16:24] = (60000).to_bytes(4, "big") * 2
    with pytest.raises(ImageError):
        read_image(bytes(bomb))


def test_impossible_pixels_are_refused():
    for wrong in (np.zeros((2, 2), np.float32), np.zeros((2, 2, 3), np.uint8), np.zeros((0, 2), np.uint8)):
        with pytest.raises(ValueError):
            encode_png(wrong)


def test_a_contact_sheet_holds_every_image_in_order():
    pictures = [np.full((20, 30), 50 * (i + 1), np.uint8) for i in range(5)]
    sheet = contact_sheet(pictures, columns=2)
    assert sheet.dtype == np.uint8
    assert [np.count_nonzero(sheet == 50 * (i + 1)) for i in range(5)] == [600] * 5
    assert sheet[10, 10] == 50 and sheet[10, 50] == 100 and sheet[34, 10] == 150
    captions = ["Pneumothorax", "", "a b " * 99, "größe", "x"]
    captioned = contact_sheet(pictures, 2, captions)
    assert captioned.shape[0] > sheet.shape[0] and captioned.shape[1] == sheet.shape[1]
    np.testing.assert_array_equal(captioned, contact_sheet(pictures, 2, captions))
    for wrong in [([], 2), (pictures, 0), (pictures, 2, ["one"]), ([np.zeros((2, 2))], 1)]:
        with pytest.raises(ValueError):
            contact_sheet(*wrong)


def test_marks_of_synthetic_origin_are_read_whoever_made_them(tmp_path):
    pixels = np.zeros((8, 8), np.uint8)
    assert read_marked(encode_png(pixels))[1] is None
    assert "synthcxr" in read_marked(encode_png(pixels, {"seed": 1}))[1]
    term = "http://cv.iptc.org/newscodes/digitalsourcetype/{}"
    for name, marked in (("compositeWithTrainedAlgorithmicMedia", True), ("digitalCapture", False)):
        xmp = f"<x><Iptc4xmpExt:DigitalSourceType>{term.format(name)}</Iptc4xmpExt:DigitalSourceType></x>"
        Image.fromarray(pixels).save(tmp_path / "a.jpg", xmp=xmp.encode())
        png = encode_png(pixels)
        chunk = b"iTXt" + b"XML:com.adobe.xmp\0\0\0\0\0" + xmp.encode()
        late = struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk))
        for file in (tmp_path / "a.jpg", png[:-12] + late + png[-12:]):  # in a PNG, behind the pixels
            assert (name in (read_marked(file)[1] or "")) == marked
