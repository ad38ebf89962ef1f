"""DICOM reading: pixels as plain pydicom has them, display by the standard, and hundreds of files that mean harm."""

import os
import resource
import sys
import warnings

import numpy as np
import pydicom
import pytest
from broken_dicom import LOSSLESS, NATIVE, chest, data_of, dataset, wrong_files
from hypothesis import given
from hypothesis import strategies as st
from pydicom import uid
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.pixels import apply_modality_lut, apply_voi_lut

from synthcxr import images
from synthcxr.dicom import read
from synthcxr.dicom.display import displayed
from synthcxr.dicom.guard import Guard
from synthcxr.dicom.read import DicomImage, read_dicom, stored_pixels
from synthcxr.errors import ImageError

SYNTAXES = (*NATIVE, uid.DeflatedExplicitVRLittleEndian, *LOSSLESS)
KINDS = [(8, False), (8, True), (10, False), (12, False), (12, True), (16, False), (16, True)]


def written(folder, ds, name="image.dcm"):
    path = folder / name
    path.write_bytes(data_of(ds))
    return path


def lut(entries, first=0, bits=16):
    item = Dataset()
    item.LUTDescriptor = [len(entries) % 65536, first, bits]
    item.LUTData = np.asarray(entries, "<u2").tobytes()
    item["LUTData"].VR = "OW"
    return item


def as_shown(values, low, high, ds):
    """Gray levels over the full range of the type: uint8 up to 8 bits, else uint16."""
    dtype, top = (np.uint8, 255) if ds.BitsStored <= 8 else (np.uint16, 65535)
    gray = np.rint(np.clip((values - low) / (high - low), 0, 1) * top).astype(dtype)
    return top - gray if ds.PhotometricInterpretation == "MONOCHROME1" else gray


def by_pydicom(ds, stored):
    """A display pipeline of pydicom's own parts, pixel by pixel."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        values = apply_voi_lut(apply_modality_lut(stored, ds), ds).astype(np.float64)
    if "VOILUTSequence" in ds:
        return as_shown(values, 0, 2 ** ds.VOILUTSequence[0].LUTDescriptor[2] - 1, ds)
    signed = ds.PixelRepresentation
    ends = np.array(
        [-(2 ** (ds.BitsStored - 1)), 2 ** (ds.BitsStored - 1) - 1] if signed else [0, 2**ds.BitsStored - 1]
    )
    if "ModalityLUTSequence" in ds:
        ends = np.array([0, 2 ** ds.ModalityLUTSequence[0].LUTDescriptor[2] - 1])
    if "RescaleSlope" in ds:
        ends = ends * float(ds.RescaleSlope) + float(ds.RescaleIntercept)
    return as_shown(values, *ends, ds)


@pytest.mark.parametrize("syntax", SYNTAXES, ids=lambda syntax: syntax.name[:24])
def test_stored_pixels_are_those_of_plain_pydicom(tmp_path, syntax):
    for bits, signed in KINDS:
        stored = chest(bits, signed)
        path = written(tmp_path, dataset(stored, bits, syntax, WindowCenter=5, WindowWidth=2**bits / 2))
        plain = pydicom.dcmread(path)
        read_back = stored_pixels(path)
        np.testing.assert_array_equal(read_back, stored)
        np.testing.assert_array_equal(read_back, plain.pixel_array)
        assert read_back.dtype == plain.pixel_array.dtype
        image = read_dicom(path)
        np.testing.assert_array_equal(image.pixels, by_pydicom(plain, plain.pixel_array))
        assert (image.width, image.height, image.bits_stored) == (48, 40, bits)


@pytest.mark.parametrize("syntax", [uid.JPEGBaseline8Bit, uid.JPEGExtended12Bit])
def test_lossy_jpeg_is_decoded_as_plain_pydicom_does(tmp_path, syntax):
    stored = chest(8)
    path = written(tmp_path, dataset(stored, 8, syntax))
    np.testing.assert_array_equal(stored_pixels(path), pydicom.dcmread(path).pixel_array)
    assert np.abs(stored_pixels(path).astype(int) - stored).mean() < 2


def test_a_missing_decoder_is_named(tmp_path):
    ds = dataset(chest(), 12, uid.JPEGLosslessSV1)
    ds.PixelData = dataset(chest(8), 8, uid.JPEGBaseline8Bit).PixelData
    ds.file_meta.TransferSyntaxUID = uid.JPEGExtended12Bit
    if "pylibjpeg" in pydicom.pixels.get_decoder(uid.JPEGExtended12Bit).available_plugins:
        pytest.skip("a decoder of 12-bit JPEG is installed")
    with pytest.raises(ImageError, match="of 12 bits needs the package pylibjpeg-libjpeg; install it"):
        read_dicom(written(tmp_path, ds))


@given(
    st.sampled_from(KINDS), st.booleans(), st.sampled_from([None, "LINEAR", "LINEAR_EXACT", "SIGMOID"]),
    st.floats(-3000, 70000), st.floats(1, 70000), st.sampled_from([None, 1, 0.001, 0.37, 2, -1, -1.5]),
    st.integers(-2000, 2000),
)  # fmt: skip
def test_windows_show_what_the_standard_says(kind, inverted, function, center, width, slope, intercept):
    bits, signed = kind
    stored = chest(bits, signed, (9, 11))
    elements = {"WindowCenter": [round(center, 2), 1], "WindowWidth": [round(width, 2), 1]}
    if function:
        elements["VOILUTFunction"] = function
    if slope:
        elements |= {"RescaleSlope": slope, "RescaleIntercept": intercept}
    ds = dataset(stored, bits, PhotometricInterpretation=f"MONOCHROME{2 - inverted}", **elements)
    expected = by_pydicom(ds, stored)
    if expected.min() == expected.max():
        with pytest.raises(ImageError, match="alike"):
            displayed(stored, ds, bits)
    else:
        np.testing.assert_array_equal(displayed(stored, ds, bits), expected)


@pytest.mark.parametrize("inverted", [False, True])
def test_lookup_tables_come_before_windows(inverted):
    stored = chest(12)
    curve = np.rint(np.linspace(0, 1, 3500) ** 2 * 65535)
    steps = np.linspace(0, 65535, 2000)
    for tables in (
        {"VOILUTSequence": [lut(curve, 300), lut(curve[::-1])], "WindowCenter": 9, "WindowWidth": 9},
        {"ModalityLUTSequence": [lut(steps, 1000)], "WindowCenter": 30000, "WindowWidth": 20000},
        {"ModalityLUTSequence": [lut(steps, 1000)], "VOILUTSequence": [lut(curve, 20000)]},
        {"RescaleSlope": 1, "RescaleIntercept": 100, "VOILUTSequence": [lut(curve // 16, 500, 12)]},
    ):
        ds = dataset(stored, PhotometricInterpretation=f"MONOCHROME{2 - inverted}", **tables)
        np.testing.assert_array_equal(displayed(stored, ds, 12), by_pydicom(ds, stored))


def test_tables_that_pydicom_itself_gets_wrong(tmp_path):
    """More entries than 8-bit levels, entries of one byte, and a first value that's negative after a rescale."""
    stored = chest(12)
    levels = (np.arange(4096) // 16).astype(np.uint8)
    item = lut(levels, bits=8)
    expected = np.rint(levels[stored] / 255 * 65535)
    np.testing.assert_array_equal(displayed(stored, dataset(stored, VOILUTSequence=[item]), 12), expected)
    item.LUTData = levels.tobytes()
    np.testing.assert_array_equal(displayed(stored, dataset(stored, VOILUTSequence=[item]), 12), expected)
    ds = dataset(stored, RescaleSlope=1, RescaleIntercept=-1024, VOILUTSequence=[lut(range(4096), 65536 - 1024, 12)])
    path = written(tmp_path, ds)
    np.testing.assert_array_equal(read_dicom(path).pixels, np.rint(stored / 4095 * 65535))


def test_without_a_window_8_bits_are_as_they_are_and_more_are_stretched(tmp_path):
    stored = chest(8) // 2 + 9
    np.testing.assert_array_equal(read_dicom(written(tmp_path, dataset(stored, 8))).pixels, stored)
    inverted = dataset(stored, 8, PhotometricInterpretation="MONOCHROME1")
    np.testing.assert_array_equal(read_dicom(written(tmp_path, inverted)).pixels, 255 - stored)
    for signed in (False, True):
        stored = chest(12, signed) // 3 + 100
        shown = read_dicom(written(tmp_path, dataset(stored, 12))).pixels
        share = (stored.astype(float) - stored.min()) / np.ptp(stored)
        np.testing.assert_array_equal(shown, np.rint(share * 65535))


def test_padding_does_not_count_as_the_darkest_pixel():
    stored = chest(12) // 2 + 1000
    content = stored.copy()
    stored[:10] = 0
    ds = dataset(stored, PixelPaddingValue=0, PixelPaddingRangeLimit=5)
    shown = displayed(stored, ds, 12)
    np.testing.assert_array_equal(shown[:10], 0)
    share = (content[10:].astype(float) - content[10:].min()) / np.ptp(content[10:])
    np.testing.assert_array_equal(shown[10:], np.rint(share * 65535))


def coded_view(code):
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = code, "SCT", "view"
    return [item]


@pytest.mark.parametrize(("field", "expected", "elements"), [
    *(("age", age, {"PatientAge": said}) for said, age in [
        ("045Y", 45), ("018M", 1), ("100W", 1), ("364D", 0), ("51", 51), ("000Y", 0), ("121Y", None), ("999Y", None)]),
    ("age", 45, {"PatientBirthDate": "19790301", "StudyDate": "20250228"}),
    ("age", 46, {"PatientBirthDate": "19790301", "AcquisitionDate": "20250301"}),
    ("age", None, {"PatientBirthDate": "20250101", "StudyDate": "20240101"}),
    ("age", None, {"PatientBirthDate": "18000101", "StudyDate": "20240101"}),
    ("age", None, {"PatientBirthDate": "", "StudyDate": "20240101"}), ("age", None, {}),
    ("sex", "female", {"PatientSex": "F"}), ("sex", "male", {"PatientSex": "M"}), ("sex", None, {"PatientSex": "O"}),
    *(("view", view, {"ViewPosition": said}) for said, view in [
        ("PA", "PA"), ("AP", "AP"), ("LL", "LATERAL"), ("RL", "LATERAL"), ("LLD", None), ("RLO", None)]),
    *(("view", view, {"ViewCodeSequence": coded_view(code)}) for code, view in [
        ("272479007", "PA"), ("R-10206", "AP"), ("399173006", "LATERAL"), ("399182000", None)]),
    ("view", "LATERAL", {"PatientOrientation": ["A", "F"]}), ("view", None, {"PatientOrientation": ["L", "F"]}),
    ("view", None, {}), ("modality", "DX", {}), ("body_part", "CHEST", {"BodyPartExamined": "CHEST"}),
    ("pixel_spacing", (0.2, 0.1), {"PixelSpacing": [0.2, 0.1], "ImagerPixelSpacing": [0.3, 0.3]}),
    ("pixel_spacing", (0.3, 0.3), {"PixelSpacing": [0, 0], "ImagerPixelSpacing": [0.3, 0.3]}),
    ("pixel_spacing", None, {"PixelSpacing": [0.1]}), ("pixel_spacing", None, {}),
    ("synthetic", "SyntheticData YES", {"SyntheticData": "YES"}), ("synthetic", None, {"SyntheticData": "NO"}),
    ("burned_in", True, {"BurnedInAnnotation": "YES"}), ("burned_in", False, {}), ("synthetic", None, {}),
    ("patient_id", "patient-1", {}), ("patient_id", None, {"PatientID": ""}),
    ("patient_id", None, {"PatientID": "x" * 65}), ("patient_id", "ab", {"PatientID": " a\tb\n"}),
    ("sop_uid", "2.25.1", {}), ("study_uid", "2.25.2", {"StudyInstanceUID": "2.25.2"}),
    ("series_uid", "2.25.3", {"SeriesInstanceUID": "2.25.3"}), ("photometric", "MONOCHROME2", {}),
])  # fmt: skip
@pytest.mark.filterwarnings("ignore")
def test_what_the_header_says(tmp_path, field, expected, elements):
    for syntax in (uid.ImplicitVRLittleEndian, uid.ExplicitVRLittleEndian):
        assert getattr(read_dicom(written(tmp_path, dataset(chest(), 12, syntax, **elements))), field) == expected


def test_limits_are_checked_before_decoding(tmp_path, monkeypatch):
    path = written(tmp_path, dataset(chest(), 12, uid.JPEG2000Lossless))
    monkeypatch.setattr(read, "get_decoder", None)
    monkeypatch.setattr(images, "MAX_PIXELS", 40 * 48 - 1)
    with pytest.raises(ImageError, match="48 x 40 is more than 1,919 pixels"):
        read_dicom(path)
    monkeypatch.setattr(read, "MAX_BYTES", 100)
    with pytest.raises(ImageError, match="are more than 100"):
        read_dicom(path)


def test_what_is_no_file_is_said(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    os.mkfifo("pipe.dcm")
    os.symlink("loop.dcm", "loop.dcm")
    for name in ("pipe.dcm", "loop.dcm", "absent.dcm", "."):
        with pytest.raises(ImageError, match=f"^{name}: "):
            read_dicom(name)


@pytest.mark.filterwarnings("ignore")
def test_a_batch_survives_hundreds_of_malformed_files(tmp_path):
    largest_before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss  # of children of earlier tests
    wrong = list(wrong_files())
    assert len(wrong) > 300 and len({file.name for file in wrong}) == len(wrong)
    right = {}
    for number, syntax in enumerate((*SYNTAXES, uid.JPEGBaseline8Bit)):
        bits = 8 if syntax == uid.JPEGBaseline8Bit else 12
        path = written(tmp_path, dataset(chest(bits, seed=number), bits, syntax), f"right-{number}.dcm")
        right[path] = read_dicom(path)
    expected = {tmp_path / file.name: file for file in wrong}
    for path, file in expected.items():
        path.write_bytes(file.data)
    paths = list(expected)
    for number, path in enumerate(right):
        paths[number * 37 : number * 37] = [path]

    with Guard(read_dicom, memory=2**30, timeout=10.0) as guard:
        results = list(guard.map(paths))

    assert [result.item for result in results] == paths
    for path, value, error in ((result.item, result.value, result.error) for result in results):
        if path in right:
            assert error is None
            np.testing.assert_array_equal(value.pixels, right[path].pixels)
            assert value.patient_id == "patient-1"
        elif error is None:
            assert not expected[path].hopeless, f"{path.name} was read"
            assert isinstance(value, DicomImage) and value.pixels.shape == (value.height, value.width)
        else:
            assert error.startswith(f"{path}: ") and "\n" not in error and len(error) < 400 + len(str(path))
            assert expected[path].says in error
            assert "patient-1" not in error
            assert "longer than" not in error and "MiB" not in error, "caught before it could do harm"
    if sys.platform == "linux":
        largest = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
        # A child counts its parent's memory as well, as it was when it was forked.
        own = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        assert largest <= max(largest_before, own, 2**20), "KiB, of any worker"


def test_a_hostile_stream_costs_its_worker_not_the_batch(tmp_path):
    """A run-length bomb that passes every check of the header; only the limits of the worker stop it."""
    half = np.tile(np.array([[0x81, 0x01]], np.uint8), (4_000_000, 1)).tobytes()  # 500 MB when unpacked
    frame = np.array([2, 64, 64 + len(half), *[0] * 13], "<u4").tobytes() + half + half
    ds = dataset(chest(), 12, uid.RLELossless, Rows=2000, Columns=2000)
    ds.PixelData = encapsulate([frame])
    bomb, right = written(tmp_path, ds, "bomb.dcm"), written(tmp_path, dataset(chest(), 12), "right.dcm")
    with Guard(read_dicom, memory=2**28) as guard:
        first, second, third = guard.map([right, bomb, right])
    assert second.error.startswith(f"{bomb}: ")
    assert "memory" in second.error
    for result in (first, third):
        np.testing.assert_array_equal(result.value.pixels, read_dicom(right).pixels)
