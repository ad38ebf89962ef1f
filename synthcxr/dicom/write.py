"""Synthetic radiographs as DICOM Part 10 files, each marked as synthetic: there's no way to write one unmarked.

Modules and types follow DICOM PS3.3: A.26 (Digital X-Ray) and A.8.1 (Secondary Capture).
"""

import hashlib
import io
import json
import re
import struct
import uuid
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import pydicom
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.errors import BytesLengthException, InvalidDicomError
from pydicom.pixels import get_encoder
from pydicom.uid import (
    UID,
    DigitalXRayImageStorageForPresentation,
    ExplicitVRLittleEndian,
    JPEGLSLossless,
    SecondaryCaptureImageStorage,
)

from synthcxr import __version__
from synthcxr.conditions import Condition
from synthcxr.config import Config
from synthcxr.dicom.header import SYNTHESIZING
from synthcxr.errors import ImageError
from synthcxr.files import write_bytes
from synthcxr.vocabulary import View

# What the shorter side is taken for: the centre square of the usual 35 x 43 cm detector.
DETECTOR_MM = 350.0
# PS3.5 table 6.2-1, in characters. Taken for bytes here, as checkers and some archives do.
ST_LIMIT, LT_LIMIT, LO_LIMIT = 1024, 10240, 64

_NAMESPACE = uuid.uuid5(uuid.NAMESPACE_DNS, "synthcxr")
_SOP_CLASSES = {"DX": DigitalXRayImageStorageForPresentation, "SC": SecondaryCaptureImageStorage}
# What pydicom raises on files that are none, are damaged, or lack the attributes: each was seen.
_BROKEN = (
    OSError, InvalidDicomError, BytesLengthException, EOFError, ValueError, TypeError, AttributeError,
    NotImplementedError, struct.error,
)  # fmt: skip
_NO_PATIENT = "Synthetic radiograph: no patient was imaged. Research only, not for diagnosis."


class DicomSettings(Config):
    """What kind of DICOM file is written.

    `kind`: DX is Digital X-Ray Image Storage - For Presentation, SC is Secondary Capture. `bits`: 8, or 12 stored in
    16. `compression`: none, or lossless JPEG-LS, which needs the package pyjpegls.
    """

    kind: Literal["DX", "SC"] = "DX"
    bits: Literal[8, 12] = 8
    compression: Literal["jpeg-ls"] | None = None


class Provenance(Config):
    """How a picture came to be.

    `prompt` is what was asked, `model_prompt` what the model was told; `model` is the hash of the model's files,
    `sampler` its settings as JSON.
    """

    prompt: str
    model_prompt: str
    seed: int
    model: str
    model_name: str | None = None
    sampler: str | None = None


class _ViewCodes(NamedTuple):
    """The code of (0054,0220) View Code Sequence, from CID 4010, and (0020,0020) Patient Orientation."""

    code: tuple[str, str, str] | None
    orientation: tuple[str, str]


# Frontal pictures are seen as if facing the patient: rows run to the patient's left.
_VIEWS: dict[View | None, _ViewCodes] = {
    "PA": _ViewCodes(("272479007", "SCT", "postero-anterior"), ("L", "F")),
    "AP": _ViewCodes(("399348003", "SCT", "antero-posterior"), ("L", "F")),
    # Which side is at the detector isn't known, so left lateral (LL) and right lateral (RL) would both be invented.
    # CID 4010 has a code for lateral as such. View Position has no term for it, but its terms are Defined ones, which
    # may be extended (PS3.5 6.3), and LATERAL is what public chest data put there. Laterals are hung with the patient
    # facing the viewer's left: rows run to the back.
    "LATERAL": _ViewCodes(("399067008", "SCT", "lateral"), ("P", "F")),
    # Unknown: no View Position, no code. DX wants an orientation all the same: that of what models draw by default.
    None: _ViewCodes(None, ("L", "F")),
}


def to_dicom(
    pixels: np.ndarray, condition: Condition, provenance: Provenance, settings: DicomSettings | None = None
) -> Dataset:
    """One synthetic picture as a data set with its file meta information.

    The stored values are `to_bits(pixels, settings.bits)`, MONOCHROME2, with a window over their whole range. UIDs are
    2.25 ones (PS3.5 B.2) made from condition, provenance, kind, bits and pixels: equal arguments give equal UIDs, and
    nothing in it tells when it was written. Each picture is a patient and a study of its own, whose name, id, method of
    de-identification, Synthetic Data (0008,001C) and synthesizing equipment say that there was no patient.

    ImagerPixelSpacing, which DX requires, is made up: the shorter side is taken for DETECTOR_MM. Derivation Description
    says so. Prompt, seed and model stand in Image Comments, the prompts cut where they are longer than allowed.

    Args:
        pixels: uint8 or uint16 (h, w), low values dark.
    Raises:
        ImageError: the compression asked for isn't installed, or the image is too small for it.
        ValueError: pixels of another type or shape.
    """
    settings = settings or DicomSettings()
    check_compression(settings)
    sides_fit = pixels.ndim == 2 and 0 < min(pixels.shape) <= max(pixels.shape) < 2**16
    if not sides_fit or pixels.dtype not in (np.uint8, np.uint16):
        raise ValueError(f"{pixels.dtype} pixels {pixels.shape} must be uint8 or uint16 (h, w), each side 1 to 65535")
    dataset = Dataset()
    _put_identity(dataset, pixels, condition, provenance, settings)
    _put_patient(dataset, condition)
    _put_origin(dataset, provenance)
    _put_series(dataset, condition, settings)
    if settings.kind == "DX":
        _put_digital_x_ray(dataset, condition, min(pixels.shape))
    else:
        dataset.ConversionType = "WSD"
    _put_pixels(dataset, pixels, settings)
    return dataset


def write_dicom(
    path: Path | str,
    pixels: np.ndarray,
    condition: Condition,
    provenance: Provenance,
    settings: DicomSettings | None = None,
) -> str:
    """`to_dicom` into a file, whole or not at all; returns its SOP Instance UID. Equal arguments, equal bytes."""
    dataset = to_dicom(pixels, condition, provenance, settings)
    buffer = io.BytesIO()
    dataset.save_as(buffer, enforce_file_format=True)  # with a preamble of zeros
    write_bytes(path, buffer.getvalue())
    return str(dataset.SOPInstanceUID)


def written_uid(path: Path) -> str | None:
    """The SOP Instance UID that a file written by `write_dicom` has in its header; None where there's no such file."""
    try:
        header = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=["SyntheticData", "SOPInstanceUID"])
        return str(header.SOPInstanceUID) if header.SyntheticData == "YES" else None
    except _BROKEN:
        return None


def to_bits(pixels: np.ndarray, bits: int) -> np.ndarray:
    """uint8 or uint16 pixels -> the values stored in 8 bits (uint8) or 12 (uint16).

    Full range to full range: 0 stays 0, the largest value (255 or 65535) becomes 255 or 4095, all else is rounded to
    the nearest; 8-bit pixels kept in 8 bits don't change.
    """
    old, new = int(np.iinfo(pixels.dtype).max), 2**bits - 1
    doubled = pixels.astype(np.uint32) * np.uint32(2 * new)  # at most 65535 * 8190, which 32 bits hold
    return ((doubled + np.uint32(old)) // np.uint32(2 * old)).astype(np.uint8 if bits == 8 else np.uint16)


def check_compression(settings: DicomSettings) -> None:
    """Raise an ImageError, before any work, where the compression asked for isn't installed."""
    if settings.compression and not get_encoder(JPEGLSLossless).is_available:
        raise ImageError("compression = 'jpeg-ls' needs pyjpegls: `pip install pyjpegls`, or leave compression out")


def _put_identity(
    dataset: Dataset, pixels: np.ndarray, condition: Condition, provenance: Provenance, settings: DicomSettings
) -> None:
    asked = [condition.model_dump(mode="json"), provenance.model_dump(mode="json", exclude={"model_name"})]
    picture = json.dumps(asked, sort_keys=True)
    form = f"{settings.kind} {settings.bits}"
    content = hashlib.sha256(f"{pixels.dtype} {pixels.shape} ".encode() + pixels.tobytes()).hexdigest()
    dataset.SpecificCharacterSet = "ISO_IR 192"  # UTF-8
    dataset.SOPClassUID = _SOP_CLASSES[settings.kind]
    dataset.SOPInstanceUID = _uid("instance", picture, form, content)
    dataset.SeriesInstanceUID = _uid("series", picture, form)
    dataset.StudyInstanceUID = _uid("study", picture)
    dataset.PatientID = f"SYNTHETIC-{uuid.uuid5(_NAMESPACE, picture).hex[:16].upper()}"
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    # Ours, so that the bytes don't depend on the version of pydicom.
    dataset.file_meta.ImplementationClassUID = _uid("implementation")
    dataset.file_meta.ImplementationVersionName = f"SYNTHCXR {__version__}"[:16]


def _put_patient(dataset: Dataset, condition: Condition) -> None:
    dataset.PatientName = "SYNTHETIC^RADIOGRAPH"
    dataset.PatientBirthDate = ""
    dataset.PatientSex = {"female": "F", "male": "M", None: ""}[condition.sex]
    if condition.age is not None:
        dataset.PatientAge = f"{condition.age:03d}Y"
    if condition.race:
        dataset.EthnicGroup = condition.race.upper()  # SH, 16 characters: "PACIFIC ISLANDER" just fits
    dataset.PatientIdentityRemoved = "YES"
    dataset.DeidentificationMethod = "None needed: synthetic radiograph, no patient was imaged"


def _put_origin(dataset: Dataset, provenance: Provenance) -> None:
    """The marks of synthetic origin: SOP Common (PS3.3 C.12.1), Contributing Equipment (CID 7005)."""
    dataset.SyntheticData = "YES"
    equipment = Dataset()
    equipment.PurposeOfReferenceCodeSequence = [_coded(*SYNTHESIZING, "Synthesizing Equipment")]
    equipment.Manufacturer = "synthcxr"
    name = _text(provenance.model_name or "latent diffusion model", LO_LIMIT)
    equipment.ManufacturerModelName = " ".join(name.replace("\\", "/").split())  # a backslash would part two values
    equipment.SoftwareVersions = __version__
    equipment.ContributionDescription = _text(f"{_NO_PATIENT} Model {provenance.model}", ST_LIMIT)
    dataset.ContributingEquipmentSequence = [equipment]
    for name in ("Manufacturer", "ManufacturerModelName", "SoftwareVersions"):
        setattr(dataset, name, getattr(equipment, name))
    dataset.DerivationDescription = (
        "Drawn by a latent diffusion model from a text prompt (see Image Comments), not derived from an acquired image."
    )
    lines = [
        _NO_PATIENT,
        f"Seed: {provenance.seed}",
        f"Model: {provenance.model}" + (f" ({provenance.model_name})" if provenance.model_name else ""),
        f"Sampler: {provenance.sampler}" if provenance.sampler else "",
        f"Prompt: {provenance.prompt}",  # last, since this is what may have to be cut
        f"Told to the model: {provenance.model_prompt}" if provenance.model_prompt != provenance.prompt else "",
    ]
    dataset.ImageComments = _text("\n".join(line for line in lines if line), LT_LIMIT)


def _put_series(dataset: Dataset, condition: Condition, settings: DicomSettings) -> None:
    """Study, series and image, without any date: the type 2 ones are there and empty."""
    for name in ("StudyDate", "StudyTime", "AccessionNumber", "ReferringPhysicianName"):
        setattr(dataset, name, "")
    dataset.StudyID = "1"
    dataset.StudyDescription = "SYNTHETIC chest radiograph, not for diagnosis"
    dataset.SeriesDescription = f"SYNTHETIC chest {condition.view or ''}".strip()
    dataset.Modality = "DX"
    dataset.BodyPartExamined = "CHEST"
    dataset.SeriesNumber = dataset.InstanceNumber = 1
    dataset.ImageType = ["DERIVED", "PRIMARY" if settings.kind == "DX" else "SECONDARY"]
    dataset.PatientOrientation = list(_VIEWS[condition.view].orientation)
    if condition.view:  # Secondary Capture has no such attribute; it doesn't forbid it either, and readers look there
        dataset.ViewPosition = condition.view
    dataset.BurnedInAnnotation = "NO"
    dataset.LossyImageCompression = "00"


def _put_digital_x_ray(dataset: Dataset, condition: Condition, shorter_side: int) -> None:
    dataset.PresentationIntentType = "FOR PRESENTATION"
    dataset.ImageLaterality = "U"  # unpaired: the chest has no side
    dataset.AnatomicRegionSequence = [_coded("816094009", "SCT", "Chest")]
    if code := _VIEWS[condition.view].code:
        dataset.ViewCodeSequence = [_coded(*code)]
    dataset.PositionerType = dataset.DetectorType = ""
    dataset.ImagerPixelSpacing = [f"{DETECTOR_MM / shorter_side:.6g}"] * 2
    dataset.PixelIntensityRelationship = "LOG"
    dataset.PixelIntensityRelationshipSign = -1  # dense tissue is bright
    dataset.RescaleIntercept, dataset.RescaleSlope, dataset.RescaleType = "0", "1", "US"
    dataset.PresentationLUTShape = "IDENTITY"
    dataset.AcquisitionContextSequence = []
    dataset.DerivationDescription += (
        f" Imager Pixel Spacing is made up: the shorter side is taken for {DETECTOR_MM:g} mm at the detector."
    )


def _put_pixels(dataset: Dataset, pixels: np.ndarray, settings: DicomSettings) -> None:
    stored = to_bits(pixels, settings.bits)
    dataset.set_pixel_data(stored, "MONOCHROME2", settings.bits, generate_instance_uid=False)
    # The LINEAR function (PS3.3 C.11.2.1.2.1) with this window is the identity over the whole range.
    dataset.WindowCenter, dataset.WindowWidth = str(2 ** (settings.bits - 1)), str(2**settings.bits)
    if settings.compression:
        try:
            dataset.compress(JPEGLSLossless, generate_instance_uid=False)
        except RuntimeError:  # seen for images below some hundred bytes, whose header outgrows the encoder's buffer
            height, width = stored.shape
            raise ImageError(f"JPEG-LS can't hold {width} x {height} pixels; leave compression out") from None


def _coded(value: str, scheme: str, meaning: str) -> Dataset:
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, scheme, meaning
    return item


def _uid(*parts: str) -> UID:
    """A UID under 2.25, at most 44 characters; pydicom's own generator ignores entropy where there's no prefix."""
    return UID(f"2.25.{uuid.uuid5(_NAMESPACE, json.dumps(parts)).int}")


def _text(value: str, limit: int) -> str:
    """`value` as DICOM text: no control characters, CR LF between lines, cut to `limit` bytes of UTF-8."""
    text = re.sub(r"[\x00-\x09\x0b-\x1f\x7f-\x9f]", " ", value.strip()).replace("\n", "\r\n")
    encoded = text.encode()
    return text if len(encoded) <= limit else encoded[: limit - 3].decode(errors="ignore").rstrip() + "..."
