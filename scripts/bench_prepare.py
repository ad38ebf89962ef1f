"""How fast `synthcxr prepare` is beside a plain loop of pydicom and Pillow, on the same files in the same run.

python scripts/bench_prepare.py [IMAGES]

Both read DICOM files (12 bits stored in 16), apply the window, reduce to 512 pixels and write 16-bit PNGs. The plain
loop checks nothing, guards nothing and writes loose files.
"""

import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image
from pydicom import dcmread
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.pixels import apply_modality_lut, apply_voi_lut
from pydicom.uid import ExplicitVRLittleEndian, SecondaryCaptureImageStorage

from synthcxr.data.prepare import PrepareConfig, run

SIDE, KEPT = 1024, 512


def make(folder: Path, count: int) -> None:
    """Smooth shapes with noise, which compress about as a radiograph does."""
    folder.mkdir()
    y, x = np.mgrid[-1 : 1 : SIDE * 1j, -1 : 1 : SIDE * 1j]
    for seed in range(count):
        rng = np.random.default_rng(seed)
        lungs = sum(
            np.exp(-(((x - side) / 0.3) ** 2) - ((y - rng.uniform(-0.1, 0.1)) / 0.6) ** 2) for side in (-0.45, 0.45)
        )
        image = Dataset()  # by hand: what synthcxr writes is marked as synthetic, and left out
        image.SOPClassUID, image.SOPInstanceUID, image.Modality = SecondaryCaptureImageStorage, f"1.2.3.{seed}", "DX"
        image.WindowCenter, image.WindowWidth = "2048", "4096"
        image.file_meta = FileMetaDataset()
        image.file_meta.MediaStorageSOPClassUID = image.SOPClassUID
        image.file_meta.MediaStorageSOPInstanceUID = image.SOPInstanceUID
        image.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        pixels = np.clip(2500 - 1900 * lungs + rng.normal(0, 19, lungs.shape), 0, 4095).astype(np.uint16)
        image.set_pixel_data(pixels, "MONOCHROME2", 12, generate_instance_uid=False)
        image.save_as(folder / f"{seed:05d}.dcm", enforce_file_format=True)


def plain(folder: Path, output: Path) -> None:
    """What one would write by hand."""
    output.mkdir()
    for path in sorted(folder.glob("*.dcm")):
        ds = dcmread(path)
        shown = apply_voi_lut(apply_modality_lut(ds.pixel_array, ds), ds).astype(np.float32)
        reduced = Image.fromarray(shown, mode="F").resize((KEPT, KEPT), Image.Resampling.LANCZOS)
        wide = np.clip(np.asarray(reduced) * (65535 / 4095), 0, 65535).astype(np.uint16)
        Image.fromarray(wide).save(output / f"{path.stem}.png")


def main() -> None:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 300
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        make(work / "in", count)

        def prepare(workers: int) -> None:
            run(
                PrepareConfig(
                    source="dicom", root=work / "in", output=work / f"{workers}", max_size=KEPT, workers=workers
                )
            )

        rates = {}
        for what, call in (
            ("plain loop", lambda: plain(work / "in", work / "plain")),
            ("prepare, 1 process", lambda: prepare(1)),
            ("prepare, 2 processes", lambda: prepare(2)),
        ):
            start = time.perf_counter()
            call()
            rates[what] = count / (time.perf_counter() - start)
    base = rates["plain loop"]
    for (what, rate), goal in zip(rates.items(), (1.0, 0.9, 1.8), strict=True):
        print(f"{what:22} {rate:7.1f} images/s   {rate / base:5.2f} x   goal {goal:g} x")


if __name__ == "__main__":
    main()
