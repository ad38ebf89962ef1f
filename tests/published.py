"""Files in the layouts that publishers of radiographs use, a few pixels small."""

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pydicom
from conftest import drawn_chest
from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import DigitalXRayImageStorageForPresentation, ExplicitVRLittleEndian


def picture(path: Path, bits: int = 8) -> None:
    """A drawn chest of 64 px as PNG or JPEG; 16 bits as PNG alone."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = drawn_chest(seed=len(path.name))
    Image.fromarray(pixels.astype(np.uint16) * 257 if bits == 16 else pixels).save(path)


def radiograph(path: Path, uid: str = "1.2.3.4", **elements: object) -> None:
    """A drawn chest of 64 px as a DICOM file; `elements` by keyword, such as PatientAge="058Y"."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Dataset()
    image.SOPClassUID, image.SOPInstanceUID, image.Modality = DigitalXRayImageStorageForPresentation, uid, "DX"
    image.file_meta = FileMetaDataset()
    image.file_meta.MediaStorageSOPClassUID = image.SOPClassUID
    image.file_meta.MediaStorageSOPInstanceUID = uid
    image.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    image.set_pixel_data(drawn_chest(), "MONOCHROME2", 8, generate_instance_uid=False)
    for keyword, value in elements.items():
        setattr(image, keyword, value)
    pydicom.dcmwrite(path, image, enforce_file_format=True)


def table(path: Path, header: str | Sequence[str], rows: Sequence[Mapping[str, object]]) -> Path:
    """A CSV file with the columns of a published one; what a row doesn't give is blank."""
    names = header.split(",") if isinstance(header, str) else list(header)
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, names, restval="")
        writer.writeheader()
        writer.writerows(rows)
    return path
