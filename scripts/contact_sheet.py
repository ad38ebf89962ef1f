"""Draw docs/images/: real held-out radiographs beside generated ones, and what a prompt changes at a fixed seed.

    python scripts/contact_sheet.py DATASET [MODEL]

Nothing is picked: the real ones are the first 16 patients of the test split in the order of their hashes, one sharp
image each; the generated ones have the same conditions and seeds 0 to 15.
"""

import sys
from hashlib import sha256
from pathlib import Path

import numpy as np

from synthcxr.conditions import Condition
from synthcxr.data.dataset import Dataset
from synthcxr.generate import Generator, Request
from synthcxr.images import contact_sheet, from_float, to_float, to_square, write_png
from synthcxr.model.folder import load_model

COUNT, COLUMNS, GAP = 16, 4, 24
PROMPTS = {
    "30 year old female, no finding": Condition(age=30, sex="female", view="PA", findings=["No Finding"]),
    "75 year old male, no finding": Condition(age=75, sex="male", view="PA", findings=["No Finding"]),
    "cardiomegaly": Condition(age=60, sex="female", view="PA", findings=["Cardiomegaly"]),
    "pleural effusion": Condition(age=60, sex="female", view="PA", findings=["Pleural Effusion"]),
    "edema, AP": Condition(age=60, sex="male", view="AP", findings=["Edema"]),
    "pneumothorax, AP": Condition(age=40, sex="male", view="AP", findings=["Pneumothorax"]),
}


def main() -> None:
    dataset, model = Dataset.open(Path(sys.argv[1])), load_model(*sys.argv[2:3])
    size, generator = model.info.resolution, Generator(model)
    folder = Path(__file__).resolve().parents[1] / "docs" / "images"
    by_patient = {r.patient: r for r in dataset.split("test") if min(r.native_width, r.native_height) >= size}
    real = sorted(by_patient.values(), key=lambda record: sha256(record.patient.encode()).digest())[:COUNT]
    pixels = [from_float(to_square(to_float(dataset.read(record)), size)) for record in real]
    requests = [Request(condition=record.condition, seed=seed) for seed, record in enumerate(real)]
    drawn = [generated.pixels for generated in generator(requests)]
    left, right = contact_sheet(pixels, COLUMNS), contact_sheet(drawn, COLUMNS)
    gap = np.full((left.shape[0], GAP), 255, np.uint8)
    write_png(folder / "contact_sheet.png", np.hstack([left, gap, right]), None)

    asked = [Request(condition=condition, seed=seed) for seed in range(3) for condition in PROMPTS.values()]
    rows = [generated.pixels for generated in generator(asked)]
    write_png(folder / "prompts.png", contact_sheet(rows, len(PROMPTS), [*PROMPTS] * 3), None)


if __name__ == "__main__":
    main()
