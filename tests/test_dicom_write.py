"""Written DICOM: valid by an independent checker, the same pixels back, deterministic, always marked as synthetic."""

import itertools
import re
import shutil
import subprocess
import warnings
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pydicom
import pytest
from conftest import drawn_chest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom.pixels import apply_modality_lut, apply_voi_lut
from pydicom.uid import ExplicitVRLittleEndian, JPEGLSLossless

from synthcxr.conditions import Condition, Finding, FindingState
from synthcxr.dicom import write
from synthcxr.dicom.write import DicomSettings, Provenance, to_bits, to_dicom, write_dicom, written_uid
from synthcxr.errors import ImageError
from synthcxr.vocabulary import RACES, SEVERITIES, SEXES, SIDES, STATES, VIEWS

PROMPT = "72 year old female. PA view. Large right pleural effusion."
ORIGIN = Provenance(
    prompt=PROMPT, model_prompt=PROMPT, seed=7, model="ab" * 32, model_name="m", sampler='{"steps": 20}'
)
WHO = Condition(age=72, sex="female", view="PA", findings=["Pleural Effusion"])
FORMS = [
    DicomSettings(kind=kind, bits=bits, compression=compression)
    for kind in ("DX", "SC") for bits in (8, 12) for compression in (None, "jpeg-ls")
]  # fmt: skip
# dciodvfy's dictionary ends before (0008,001C) Synthetic Data came into the standard.
SPURIOUS = "Error - Attribute with an even group number is not a recognized standard attribute - (0x0008,0x001c)"

try:
    import jpeg_ls  # noqa: F401 - what pyjpegls is imported as

    HAS_JPEG_LS = True
except ImportError:
    HAS_JPEG_LS = False

CONDITIONS = st.builds(
    Condition,
    findings=st.dictionaries(
        st.sampled_from([f for f in Finding if f is not Finding.NO_FINDING]),
        st.builds(
            FindingState,
            state=st.sampled_from(STATES),
            side=st.sampled_from([None, *SIDES]),
            severity=st.sampled_from([None, *SEVERITIES]),
        ),
        max_size=3,
    ),
    age=st.none() | st.integers(0, 120),
    sex=st.sampled_from([None, *SEXES]),
    race=st.sampled_from([None, *RACES]),
    view=st.sampled_from([None, *VIEWS]),
    text=st.none() | st.text(),
)
ORIGINS = st.builds(
    Provenance,
    prompt=st.text(),
    model_prompt=st.text(),
    seed=st.integers(0, 2**63 - 1),
    model=st.text(),
    model_name=st.none() | st.text(),
    sampler=st.none() | st.text(),
)


def noise(shape: tuple[int, int] = (33, 27), dtype: type = np.uint8) -> np.ndarray:
    return np.random.default_rng(0).integers(0, np.iinfo(dtype).max, shape, dtype, endpoint=True)


def needs(form: DicomSettings) -> DicomSettings:
    if form.compression and not HAS_JPEG_LS:
        pytest.skip("pyjpegls isn't installed: no JPEG-LS here")
    return form


def errors_of(path: Path) -> list[str]:
    """What dciodvfy calls an error, but for the one line it can't help."""
    if not shutil.which("dciodvfy"):
        pytest.skip("dciodvfy isn't installed (Debian package dicom3tools): no check by the standard's tables here")
    said = subprocess.run(["dciodvfy", path], capture_output=True, text=True, errors="replace", timeout=60)
    lines = (said.stdout + said.stderr).splitlines()
    assert any(line in ("DXImageForPresentation", "SCImage") for line in lines), lines  # it knew what it looked at
    return [line for line in lines if "Error" in line and not line.startswith(SPURIOUS)]


@pytest.mark.parametrize("form", FORMS, ids=str)
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("shape", [(33, 27), (64, 48)])
def test_pixels_come_back_bit_equal(tmp_path: Path, form: DicomSettings, dtype: type, shape: tuple[int, int]) -> None:
    pixels = noise(shape, dtype)
    write_dicom(tmp_path / "a.dcm", pixels, WHO, ORIGIN, needs(form))
    read = pydicom.dcmread(tmp_path / "a.dcm")
    np.testing.assert_array_equal(read.pixel_array, to_bits(pixels, form.bits))
    assert (read.BitsStored, read.HighBit, read.BitsAllocated) == (
        form.bits,
        form.bits - 1,
        8 if form.bits == 8 else 16,
    )
    assert read.file_meta.TransferSyntaxUID == (JPEGLSLossless if form.compression else ExplicitVRLittleEndian)
    # The chain of a viewer (modality LUT, window) shows each value as it is.
    shown = apply_voi_lut(apply_modality_lut(read.pixel_array, read), read)
    np.testing.assert_allclose(shown, read.pixel_array, atol=1e-9)


@pytest.mark.parametrize(("dtype", "bits"), itertools.product([np.uint8, np.uint16], [8, 12]))
def test_values_keep_their_place_in_the_range(dtype: type, bits: int) -> None:
    old, new = int(np.iinfo(dtype).max), 2**bits - 1
    values = np.arange(old + 1)
    stored = to_bits(values.astype(dtype), bits)
    assert stored.dtype == (np.uint8 if bits == 8 else np.uint16)
    assert (stored[0], stored[-1]) == (0, new)
    assert (2 * np.abs(stored.astype(np.int64) * old - values * new) <= old).all()  # the nearest there is
    if new >= old:
        np.testing.assert_array_equal(np.rint(stored * (old / new)), values)  # and so none is lost


@pytest.mark.parametrize("kind", ["DX", "SC"])
def test_every_kind_of_patient_and_view_is_valid(tmp_path: Path, kind: str) -> None:
    forms = itertools.cycle([form for form in FORMS if form.kind == kind and (HAS_JPEG_LS or not form.compression)])
    races = itertools.cycle([None, *RACES])
    for view, sex, age in itertools.product([None, *VIEWS], [None, *SEXES], [None, 0, 120]):
        condition = Condition(view=view, sex=sex, age=age, race=next(races))
        write_dicom(tmp_path / "a.dcm", noise(), condition, ORIGIN, next(forms))
        assert errors_of(tmp_path / "a.dcm") == [], condition


def test_extreme_texts_are_valid(tmp_path: Path) -> None:
    long = ORIGIN.model_copy(update={"prompt": "größe \\ \x1b\x00\n\t\u2713 " * 2000, "model_name": "x\\y\n" * 30})
    write_dicom(tmp_path / "a.dcm", noise(), Condition(text="\\"), long)
    assert errors_of(tmp_path / "a.dcm") == []
    assert pydicom.dcmread(tmp_path / "a.dcm").ImageComments.endswith("...")


def test_the_checker_does_see_errors(tmp_path: Path) -> None:
    write_dicom(tmp_path / "a.dcm", noise(), WHO, ORIGIN)
    broken = pydicom.dcmread(tmp_path / "a.dcm")
    del broken.ImageLaterality, broken.ImagerPixelSpacing
    broken.save_as(tmp_path / "a.dcm")
    assert len(errors_of(tmp_path / "a.dcm")) >= 2


@settings(max_examples=60)
@given(CONDITIONS, ORIGINS, st.sampled_from(FORMS))
def test_whatever_is_said_the_mark_is_there(tmp_path_factory, condition, origin, form):
    if form.compression and not HAS_JPEG_LS:
        form = form.model_copy(update={"compression": None})
    path = tmp_path_factory.mktemp("d") / "a.dcm"
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # pydicom warns of values that break their VR's rules
        uid = write_dicom(path, noise((16, 13)), condition, origin, form)
        read = pydicom.dcmread(path)
        elements = list(read.iterall())
    assert path.read_bytes()[:132] == bytes(128) + b"DICM"
    assert read.SyntheticData == "YES"
    assert read.ContributingEquipmentSequence[0].PurposeOfReferenceCodeSequence[0].CodeValue == "109100"
    assert read.PatientIdentityRemoved == "YES" and "SYNTHETIC" in str(read.PatientName)
    assert read.PatientID.startswith("SYNTHETIC-")
    uids = [read.SOPInstanceUID, read.SeriesInstanceUID, read.StudyInstanceUID]
    assert uids[0] == uid == written_uid(path) and len(set(uids)) == 3
    assert all(re.fullmatch(r"2\.25\.(0|[1-9][0-9]*)", one) and len(one) <= 64 for one in uids)
    assert not [element for element in elements if element.VR in ("DA", "TM", "DT") and element.value]
    assert len(read.ImageComments.encode()) <= 10240 and f"Seed: {origin.seed}" in read.ImageComments


def test_equal_arguments_give_equal_bytes(tmp_path: Path) -> None:
    for form in FORMS:
        if form.compression and not HAS_JPEG_LS:
            continue
        for name in ("a", "b"):
            write_dicom(tmp_path / name, noise(), WHO, ORIGIN, form)
        assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_another_picture_has_other_uids() -> None:
    def uids(pixels=None, condition=WHO, form=None, **changed) -> tuple[str, ...]:
        made = to_dicom(noise() if pixels is None else pixels, condition, ORIGIN.model_copy(update=changed), form)
        return made.StudyInstanceUID, made.SeriesInstanceUID, made.SOPInstanceUID, made.PatientID

    same = uids()
    assert uids(model_name="renamed") == same  # a model is its files
    others = [
        uids(seed=8), uids(model="cd" * 32), uids(prompt="Edema."), uids(sampler="{}"),
        uids(condition=Condition(age=71, sex="female", view="PA")),
    ]  # fmt: skip
    every = [uid for one in [same, *others] for uid in one]
    assert len(set(every)) == len(every)
    # Another form of the same picture: same patient and study, another series and instance.
    for form in (DicomSettings(kind="SC"), DicomSettings(bits=12)):
        one = uids(form=form)
        assert (one[0], one[3]) == (same[0], same[3]) and one[1] != same[1] and one[2] != same[2]
    if HAS_JPEG_LS:  # lossless compression makes no new instance
        assert uids(form=DicomSettings(compression="jpeg-ls")) == same
    assert uids(pixels=255 - noise())[2] != same[2]  # two contents never share an instance UID


@pytest.mark.parametrize(
    ("view", "code", "orientation"),
    [
        ("PA", "272479007", ["L", "F"]),
        ("AP", "399348003", ["L", "F"]),
        ("LATERAL", "399067008", ["P", "F"]),
        (None, None, ["L", "F"]),
    ],
)
def test_the_condition_in_dicom_words(view: str | None, code: str | None, orientation: list[str]) -> None:
    made = to_dicom(noise(), Condition(view=view, age=5, sex="male", race="native american"), ORIGIN)
    assert (made.PatientAge, made.PatientSex, made.EthnicGroup) == ("005Y", "M", "NATIVE AMERICAN")
    assert made.get("ViewPosition") == view and made.PatientOrientation == orientation
    assert [item.CodeValue for item in made.get("ViewCodeSequence", [])] == ([code] if code else [])
    nobody = to_dicom(noise(), Condition(), ORIGIN)
    assert nobody.PatientSex == "" and "PatientAge" not in nobody and "EthnicGroup" not in nobody


def test_provenance_and_invented_spacing_are_said() -> None:
    told = ORIGIN.model_copy(update={"model_prompt": "72 year old female. PA view. Pleural effusion."})
    made = to_dicom(drawn_chest(), WHO, told)
    for part in (PROMPT, told.model_prompt, "Seed: 7", "ab" * 32, '{"steps": 20}', "not for diagnosis"):
        assert part in made.ImageComments
    assert [float(one) * 64 for one in made.ImagerPixelSpacing] == pytest.approx([350, 350], rel=1e-5)
    assert "Imager Pixel Spacing is made up" in made.DerivationDescription
    assert "ImagerPixelSpacing" not in to_dicom(drawn_chest(), WHO, told, DicomSettings(kind="SC"))


def test_files_of_others_are_not_taken_for_ours(tmp_path: Path) -> None:
    assert written_uid(tmp_path / "nothing.dcm") is None
    uid = write_dicom(tmp_path / "a.dcm", noise(), WHO, ORIGIN)
    data = (tmp_path / "a.dcm").read_bytes()
    assert written_uid(tmp_path / "a.dcm") == uid
    real = pydicom.dcmread(tmp_path / "a.dcm")
    del real.SyntheticData
    real.save_as(tmp_path / "real.dcm")
    (tmp_path / "text.dcm").write_text("text")
    (tmp_path / "cut.dcm").write_bytes(data[:200])
    for name in ("real", "text", "cut"):
        assert written_uid(tmp_path / f"{name}.dcm") is None


def test_what_cannot_be_written_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shapes = [np.zeros(shape, np.uint8) for shape in ((2, 2, 3), (0, 2), (1, 2**16))]
    for wrong in (*shapes, np.zeros((2, 2), np.int16), np.zeros((2, 2), np.float32)):
        with pytest.raises(ValueError, match="must be"):
            to_dicom(wrong, WHO, ORIGIN)
    assert to_dicom(noise((1, 1)), WHO, ORIGIN).pixel_array.shape == (1, 1)
    if HAS_JPEG_LS:
        with pytest.raises(ImageError, match="1 x 1 pixels; leave compression out"):
            to_dicom(noise((1, 1)), WHO, ORIGIN, DicomSettings(compression="jpeg-ls"))
    monkeypatch.setattr(write, "get_encoder", lambda syntax: SimpleNamespace(is_available=False))
    with pytest.raises(ImageError, match="pip install pyjpegls"):
        write_dicom(tmp_path / "a.dcm", noise(), WHO, ORIGIN, DicomSettings(compression="jpeg-ls"))
    assert not list(tmp_path.iterdir())
